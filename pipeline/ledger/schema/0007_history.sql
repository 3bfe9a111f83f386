-- How news came: who moved a task on, how repeats came in, and at which door.

-- 1: it moved its task on to a later stage, whichever claims came after it.
ALTER TABLE updates ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;
-- How a repeat came; empty: before that was noted.
ALTER TABLE duplicates ADD COLUMN origin TEXT NOT NULL DEFAULT '';
-- The door of the provider; empty: before that was noted.
ALTER TABLE tasks ADD COLUMN door TEXT NOT NULL DEFAULT '';
