-- Who sleeps, and who is rung for what this run did.
--
-- A worker's bell stands in sleep:<type> and sleep:w (any worker) by the time
-- it came in, and bell:<bell> says how: worker, types, '', out, at. Rung, it is
-- taken out of that one list (`out`; '': of none), for the next `asleep` puts it
-- back there; in the others it stands on, awake. After TTL/3 it comes in anew
-- everywhere, which is ahead of when its record or a list expires, a minute
-- after the last that came in. wait:<id> holds bells that wait for the end of
-- a job or task, by their number of this sleep; waits is there while anybody
-- does, waits:t while anybody waits for a task that is no root. A bell that
-- nobody listens to is forgotten, and the next one is rung.
lazy(function()
local function bell_record(bell) -- worker, types, '', out, at; out is nil: it sleeps
    local s = call('GET', P .. 'bell:' .. bell)
    if s then return mpu(s) end
end

local function put_record(bell, worker, type_nos, out, at)
    call('SET', P .. 'bell:' .. bell, mp(worker, type_nos, '', out, at), 'EX', TTL)
end

local function has(list, x)
    for i = 1, #list do
        if list[i] == x then return true end
    end
    return false
end

local function forget(bell, worker)
    call('HDEL', P .. 'bellof', worker)
    call('DEL', P .. 'bell:' .. bell)
end

local function take_out(bell)
    local worker, type_nos = bell_record(bell)
    if not worker then return end
    for _, no in ipairs(type_nos) do call('ZREM', P .. 'sleep:' .. no, bell) end
    call('ZREM', P .. 'sleep:w', bell)
    forget(bell, worker)
end

-- What came out of a list, or is asked by its number: no is a type, 'w', or
-- nil. True: it slept for that, and somebody heard it.
local function ring(bell, no)
    local worker, type_nos, _, out, at = bell_record(bell)
    if not worker then return false end
    if no and no ~= 'w' and not has(type_nos, no) then return false end -- of an earlier sleep
    if out then
        if no then call('DEL', P .. 'bell:' .. bell) end -- it is in two lists no more: it comes in anew
        return false
    end
    if call('PUBLISH', P .. 'b:' .. bell, '') == 0 then
        forget(bell, worker)
        return false
    end
    put_record(bell, worker, type_nos, no and P .. 'sleep:' .. no or '', at)
    return true
end

-- Rings up to n of a list, those that came in last.
local function ring_some(no, n)
    while n > 0 do
        local got = call('ZPOPMAX', P .. 'sleep:' .. no)
        if not got[1] then return end
        if ring(got[1], no) then n = n - 1 end
    end
end

local function same(a, b)
    if #a ~= #b then return false end
    for i = 1, #a do
        if a[i] ~= b[i] then return false end
    end
    return true
end

local function sleeps(bell, worker, type_nos)
    local ms = floor(now / 1000)
    local was, types_were, _, out, at = bell_record(bell)
    if was == worker and at and ms - at < TTL * 1000 / 3 and same(types_were, type_nos) then
        if not out then return end
        if out ~= '' then call('ZADD', out, at, bell) end
        put_record(bell, worker, type_nos, nil, at)
        return
    end
    if was then take_out(bell) end
    local function enter(key)
        call('ZADD', key, ms, bell)
        call('ZREMRANGEBYSCORE', key, '-inf', ms - TTL * 1000)
        call('EXPIRE', key, TTL)
    end
    for _, no in ipairs(type_nos) do enter(P .. 'sleep:' .. no) end
    enter(P .. 'sleep:w')
    call('HSET', P .. 'bellof', worker, bell)
    put_record(bell, worker, type_nos, nil, ms)
end

-- The end of a job as who waits for it would read it, the reply to a read;
-- nil: it is no job's, too long, or not to be read, and the waiter reads.
local NEWS_MAX = 16384
local function news_of(no, ord)
    if ord ~= 0 then return end
    local ok, reply = pcall(dt.op_read, {3, 0, '', no})
    if not ok or reply[1] ~= 1 then return end
    local s = mp({0, reply})
    return #s <= NEWS_MAX and s or nil
end

-- Rings one that waits, with what it would read.
local function tell(bell, nap, news)
    call('PUBLISH', P .. 'b:' .. bell, news and '\146' .. mp(nap) .. news or '')
end

-- 2 bell, 3 worker, 4 types, 5 id of a job or a task, 7 its number of this
-- sleep, 8 whether its owner does not look first: what has ended, or is not
-- there, rings at once
function dt.op_asleep(op)
    local bell, worker, type_nos, id, nap, blind = op[2], op[3] or 0, op[4] or NONE, op[5] or '', op[7] or 0, op[8]
    insert(fx.bells, function()
        if worker ~= 0 then sleeps(bell, worker, type_nos) end
        if id == '' then return end
        if blind then
            local no = dt.job_find(id)
            local root = no and look(no, 0)
            if not root or root.state >= SUCCEEDED then return tell(bell, nap, root and news_of(no, 0)) end
        end
        call('ZADD', P .. 'wait:' .. id, nap, bell)
        call('EXPIRE', P .. 'wait:' .. id, TTL)
        call('SET', P .. 'waits', '', 'EX', TTL)
        if id:find('/', 1, true) then call('SET', P .. 'waits:t', '', 'EX', TTL) end -- or a job of such an id
    end)
    return NONE
end

-- 2 bell, 3 worker, 4 id that it waited for
function dt.op_awake(op)
    local bell, worker, id = op[2], op[3] or 0, op[4] or ''
    insert(fx.bells, function()
        if worker ~= 0 then take_out(bell) end
        if id ~= '' then call('ZREM', P .. 'wait:' .. id, bell) end
    end)
    return NONE
end

-- Of up to PAGE that came in last, those that sleep, and are another's: their types.
local PAGE = 64
local function sleepers(no, worker)
    local bells = call('ZREVRANGEBYSCORE', P .. 'sleep:' .. no, '+inf', floor(now / 1000) - TTL * 1000, 'LIMIT', 0, PAGE)
    local of = {}
    for i = 1, #bells do
        local w, type_nos, _, out = bell_record(bells[i])
        if w and w ~= worker and not out then
            for _, t in ipairs(type_nos) do of[t] = true end
        end
    end
    return of, #bells == PAGE
end

-- Types of a turn's wants for which a bell sleeps that is not the worker's.
function dt.hungry(worker, want, out)
    if #want == 0 then return end
    local of, more = sleepers('w', worker)
    for _, w in ipairs(want) do
        if of[w[1]] or (more and sleepers(w[1], worker)[w[1]]) then insert(out, w[1]) end
    end
end

-- Something is due later: one worker is rung, whose sweep hears when. With one
-- shard every worker looks each second; with more of them, not in each.
function dt.ring_later()
    insert(fx.bells, function() ring_some('w', 1) end)
end

function dt.ring()
    for _, change in ipairs(fx.bells) do change() end
    for _, no in ipairs(fx.left) do
        local bell = call('HGET', P .. 'bellof', no)
        if bell then take_out(bell) end
    end
    for _, no in ipairs(fx.types) do
        local n = fx.readied[no] - (fx.taken[no] or 0) -- what it has claimed itself needs nobody
        if n > 0 then ring_some(no, n) end
    end
    for _, no in ipairs(fx.workers) do
        local bell = call('HGET', P .. 'bellof', no)
        if bell then ring(bell) end
    end
    if fx.todo then ring_some('w', 1) end
    if #fx.ends == 0 or call('EXISTS', P .. 'waits') == 0 then return end
    local children = call('EXISTS', P .. 'waits:t') ~= 0
    local ends, keys = {}, {}
    for _, e in ipairs(fx.ends) do
        if children or e[2] == 0 then
            insert(ends, e)
            insert(keys, P .. 'wait:' .. dt.task_id(e[1], e[2]))
        end
    end
    for from = 1, #keys, 1000 do
        local last = min(from + 999, #keys)
        if call('EXISTS', unpack(keys, from, last)) > 0 then
            for i = from, last do
                local got = call('ZRANGE', keys[i], 0, -1, 'WITHSCORES')
                local news = got[1] and news_of(ends[i][1], ends[i][2])
                for b = 1, #got, 2 do tell(got[b], tonumber(got[b + 1]), news) end
                call('DEL', keys[i])
            end
        end
    end
end
end)
