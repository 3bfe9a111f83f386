-- One callback of the stage "complete" with two tracks, about 2.3 kB; the task id
-- changes with each request. Made up; shaped like the provider's documentation.
local prompt = string.rep("la la la, under a paper moon we sing ", 16)
local function track(n)
  return '{"id":"8551-' .. n .. '","audio_url":"https://files.example.com/a/' .. n ..
    '.mp3","stream_audio_url":"https://stream.example.com/a/' .. n ..
    '","image_url":"https://files.example.com/i/' .. n .. '.jpeg","prompt":"' ..
    prompt .. '","model_name":"chirp-v4","title":"Paper Moon ' .. n ..
    '","tags":"indie, dream pop, female vocals","createTime":1747026351679,' ..
    '"duration":198.44}'
end
local tail = '","data":[' .. track(1) .. ',' .. track(2) .. ']}}'
local count = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
  count = count + 1
  local body = '{"code":200,"msg":"All generated successfully.","data":{' ..
    '"callbackType":"complete","task_id":"task-' .. count .. tail
  return wrk.format(nil, nil, nil, body)
end
