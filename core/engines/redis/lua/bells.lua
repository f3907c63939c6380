-- Who sleeps, and who is rung for what this run did.
--
-- sleep:<type> and sleep:w (any worker) hold bells by the time they fell
-- asleep, wait:<id> those that wait for the end of a job or task; waits is
-- there while anybody does. bell:<bell> says in which of them it is, and is
-- gone after a minute, as the others are. A bell
-- that nobody listens to is taken out, and the next one is rung.
lazy(function()
local function sleeper(bell) -- worker, types, id
    local s = call('GET', P .. 'bell:' .. bell)
    if s then return mpu(s) end
end

local function take_out(bell)
    local worker, type_nos, id = sleeper(bell)
    if not worker then return end
    for _, no in ipairs(type_nos) do call('ZREM', P .. 'sleep:' .. no, bell) end
    if worker ~= 0 then
        call('ZREM', P .. 'sleep:w', bell)
        call('HDEL', P .. 'bellof', worker)
    end
    if id ~= '' then call('ZREM', P .. 'wait:' .. id, bell) end
    call('DEL', P .. 'bell:' .. bell)
end

local function ring(bell) -- true: somebody heard it
    take_out(bell)
    return call('PUBLISH', P .. 'b:' .. bell, '') > 0
end

-- Rings up to n of a list, those that fell asleep last.
local function ring_some(key, n)
    while n > 0 do
        local got = call('ZPOPMAX', key)
        if not got[1] then return end
        if ring(got[1]) then n = n - 1 end
    end
end

-- 2 bell, 3 worker, 4 types, 5 id of a job or a task
function dt.op_asleep(op)
    local bell, worker, type_nos, id = op[2], op[3] or 0, op[4] or NONE, op[5] or ''
    insert(fx.bells, function()
        take_out(bell)
        local at = floor(now / 1000)
        local function enter(key)
            call('ZADD', key, at, bell)
            call('ZREMRANGEBYSCORE', key, '-inf', at - TTL * 1000)
            call('EXPIRE', key, TTL)
        end
        for _, no in ipairs(type_nos) do enter(P .. 'sleep:' .. no) end
        if worker ~= 0 then
            enter(P .. 'sleep:w')
            call('HSET', P .. 'bellof', worker, bell)
        end
        if id ~= '' then
            enter(P .. 'wait:' .. id)
            call('SET', P .. 'waits', '', 'EX', TTL)
        end
        call('SET', P .. 'bell:' .. bell, mp(worker, type_nos, id), 'EX', TTL)
    end)
    return NONE
end

function dt.op_awake(op)
    insert(fx.bells, function() take_out(op[2]) end)
    return NONE
end

-- Types of a turn's wants for which a bell sleeps that is not the worker's.
function dt.hungry(worker, want, out)
    if #want == 0 then return end
    local keys = {}
    for i, w in ipairs(want) do keys[i] = P .. 'sleep:' .. w[1] end
    if call('EXISTS', unpack(keys)) == 0 then return end
    local own = call('HGET', P .. 'bellof', worker)
    for i, w in ipairs(want) do
        for _, bell in ipairs(call('ZREVRANGEBYSCORE', keys[i], '+inf', floor(now / 1000) - TTL * 1000, 'LIMIT', 0, 2)) do
            if bell ~= own then
                insert(out, w[1])
                break
            end
        end
    end
end

-- Something is due later: one worker is rung, whose sweep hears when. With one
-- shard every worker looks each second; with more of them, not in each.
function dt.ring_later()
    insert(fx.bells, function() ring_some(P .. 'sleep:w', 1) end)
end

function dt.ring()
    for _, change in ipairs(fx.bells) do change() end
    for _, no in ipairs(fx.left) do
        local bell = call('HGET', P .. 'bellof', no)
        if bell then take_out(bell) end
    end
    for _, no in ipairs(fx.types) do
        local n = fx.readied[no] - (fx.taken[no] or 0) -- what it has claimed itself needs nobody
        if n > 0 then ring_some(P .. 'sleep:' .. no, n) end
    end
    for _, no in ipairs(fx.workers) do
        local bell = call('HGET', P .. 'bellof', no)
        if bell then ring(bell) end
    end
    if fx.todo then ring_some(P .. 'sleep:w', 1) end
    if #fx.ends == 0 or call('EXISTS', P .. 'waits') == 0 then return end
    local keys = {}
    for i, t in ipairs(fx.ends) do keys[i] = P .. 'wait:' .. dt.task_id(t.job, t.ord) end
    for from = 1, #keys, 1000 do
        local last = min(from + 999, #keys)
        if call('EXISTS', unpack(keys, from, last)) > 0 then
            for i = from, last do
                for _, bell in ipairs(call('ZRANGE', keys[i], 0, -1)) do ring(bell) end
            end
        end
    end
end
end)
