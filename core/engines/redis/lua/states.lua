-- The one table of a task's states: from each, the sum of 2^to of those that
-- it may go to. See core/model/states.c.
local edges = {
    [BLOCKED] = 2 + 4 + 128 + 256 + 512 + 32, -- scheduled, ready; failed, cancelled, skipped, closing
    [SCHEDULED] = 1 + 4 + 128 + 256 + 512 + 32,
    [READY] = 1 + 8 + 128 + 256 + 512 + 32,
    [RUNNING] = 1 + 2 + 4 + 16 + 32 + 64 + 128 + 256 + 512,
    [PARKED] = 8 + 1 + 2 + 4 + 32 + 128 + 256 + 512,
    [CLOSING] = 64 + 128 + 256 + 512,
    [SUCCEEDED] = 0, [FAILED] = 0, [CANCELLED] = 0, [SKIPPED] = 0,
    [STATES] = 1 + 2 + 4 + 128 + 256 + 512, -- made as
}
local state_names = {[0] = 'blocked', 'scheduled', 'ready', 'running', 'parked', 'closing', 'succeeded', 'failed', 'cancelled', 'skipped', 'nothing'}

local legal = {} -- from * 16 + to
for from, to in pairs(edges) do
    for state = BLOCKED, STATES do legal[from * 16 + state] = floor(to / 2 ^ state) % 2 == 1 end
end
