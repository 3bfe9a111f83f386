// Peer: fastify and rabbitmq-client, as their documentation shows.
import Fastify from 'fastify'
import { Connection } from 'rabbitmq-client'

const connection = new Connection(process.env.BENCH_BROKER_URL)
const publisher = connection.createPublisher({ confirm: true, maxAttempts: 1 })
const queue = process.env.BENCH_QUEUE
const app = Fastify({ logger: false })

app.post('/callbacks/:operation', async (request, reply) => {
  const data = request.body.data
  await publisher.send(
    {
      routingKey: queue,
      durable: true,
      mandatory: true,
      headers: {
        'task-id': data.task_id,
        stage: data.callbackType,
        operation: request.params.operation
      }
    },
    request.body
  )
  reply.code(200).send()
})

await connection.onConnect()
await app.listen({ host: '127.0.0.1', port: Number(process.argv[2]) })

process.on('SIGTERM', async () => {
  await app.close()
  await publisher.close()
  await connection.close()
  process.exit(0)
})
