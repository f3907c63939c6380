-- The model, as a Redis script: a port of core/model, room by room. The
-- files of this folder are one chunk, in the order of meson.build. What C
-- calls dti_x is dt.x here; a room's own helpers are local to its file.
--
-- A task in hand is its row: t.job, t.ord, t.j (its job's row); the counts of
-- a job by state stand in j[0] to j[9]. A field that is 0 is not in the
-- table. 0 is true in Lua: flags are compared with 0.
local call, pack, unpack_s = redis.call, struct.pack, struct.unpack
local mp, mpu = cmsgpack.pack, cmsgpack.unpack
local band, bor = bit.band, bit.bor
local floor, min, max = math.floor, math.min, math.max
local char, sub, byte, format = string.char, string.sub, string.byte, string.format
local insert, concat = table.insert, table.concat
local P -- ahead of each key of the shard
local dt = {}
local NONE = {} -- an empty list; nobody writes to it
local ZERO8, ZERO16 = '\0\0\0\0\0\0\0\0', '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local EMITS = '*' -- as ord: the job's emits

local now       -- wall clock, us
local meta      -- the shard's own row
local work      -- of one operation: steps, limit, queues, run
local fx        -- what others wait for

-- What a room has for itself lies in a function of its own: Lua gives one
-- function 200 names.
local function room(f) f() end

-- A room that few calls need is made when one of its dt functions is first
-- asked for; assemble.py writes their names ahead of it.
local rooms = {}
local function lazy(names, f)
    rooms[#rooms + 1] = names
    rooms[#rooms + 1] = f
end
setmetatable(dt, {__index = function(_, name)
    for i = 1, #rooms, 2 do
        if rooms[i]:find(' ' .. name .. ' ', 1, true) then
            rooms[i + 1]()
            return rawget(dt, name)
        end
    end
end})

local function raise(err, ...)
    error({err, format(...)}, 0)
end
