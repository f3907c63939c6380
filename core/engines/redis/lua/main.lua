-- The entry: the header, the operations in order, the answer. See
-- core/model/model.c and proto/redis.md.

function dt.job_find(id) return tonumber(hget(hash(P .. 'ids'), id) or nil) end

function dt.task_id(no, ord)
    local id = data_get(no, 0, D_ID)
    return ord == 0 and id or id .. '/' .. format('%d', ord)
end

-- Of the model's own ids too; nil, or an error and its text.
function dt.id_check(id)
    if id == '' then return EARGS, 'a job id has 1 to 200 bytes, this one has 0' end
    if #id > 4000 then
        return ETOOBIG, format('the id "%s.." has %d bytes: shorten the ids of the chain that it came by', sub(id, 1, 60), #id)
    end
    local at = id:find('[%z\1-\31\127]')
    if at then return EARGS, format('a job id may not hold control signs: byte %d is 0x%02x', at - 1, byte(id, at)) end
    local _, bangs = id:gsub('!', '')
    if bangs > 7 then return ETOOBIG, 'a chain of triggers is longer than 7: one of them starts itself again' end
end

-- 2 salt, 3 shards; reply: salt, era, shards.
local function init(op)
    if not meta then
        meta = {}
        for i = 1, #META do meta[META[i]] = 0 end
        meta.shards, meta.read_min, meta.write, meta.salt, meta.era, meta.last_time, meta.run_id = op[3] or 1, 1, 1, op[2], 1, now, ''
        for _, name in ipairs({'job', 'type', 'lane', 'limit', 'worker', 'todo', 'lapse'}) do meta['next_' .. name] = 1 end
        dt.type_system('dynatask.map')
        meta.undo_type = dt.type_system('dynatask.undo')
        dt.type_system('dynatask.join')
    end
    return {meta.salt, meta.era, meta.shards}
end

-- An outage must not look like the death of all workers.
local function note_time()
    if meta.lease_us ~= 0 and now - meta.last_time > floor(meta.lease_us / 2) then meta.resumed = now end
    meta.last_time = now
end

local function run(op, run_id, steps)
    local kind = op[1]
    work = {steps = 0, limit = kind == 6 and op[2] or steps, todo = {head = 1, n = 0}, room = {head = 1, n = 0}, run = {count = 0}}
    if kind == 3 then return dt.op_read(op) end
    if kind == 8 then return dt.op_asleep(op) end
    if kind == 9 then return dt.op_awake(op) end
    if kind == 10 then return dt.op_dump() end
    dt.writes = true
    if kind == 11 then return init(op) end
    local last_time, resumed = meta.last_time, meta.resumed
    note_time()
    local reply, err, text
    if kind == 0 then
        err, text = dt.id_check(op[2])
        if not err then reply = dt.op_start(op) end
    elseif kind == 1 then reply, err, text = dt.op_hello(op)
    elseif kind == 2 then reply, err, text = dt.op_turn(op, run_id)
    elseif kind == 4 then reply = dt.op_post(op)
    elseif kind == 5 then reply = dt.op_mark(op)
    elseif kind == 6 then reply = dt.op_sweep(op)
    elseif kind == 7 then reply = dt.op_era(op)
    elseif kind == 12 then reply, err, text = dt.op_intake(op)
    elseif kind == 13 then reply = dt.op_done(op)
    else err, text = EVERSION, 'an operation that this release does not know' end
    if err then
        meta.last_time, meta.resumed = last_time, resumed
        return nil, err, text
    end
    if kind ~= 6 then
        dt.cascade(false)
        dt.leave()
    end
    if kind == 2 then reply[3] = fx.todo end
    return reply
end

local function failure(e) -- what pcall gave
    if type(e) == 'table' then
        if e.err then return {EENGINE, 'the server refused a command of the script: ' .. e.err} end
        return {e[1], e[2]}
    end
    return {EINTERNAL, 'the script failed: ' .. tostring(e)}
end

-- An operation that raises leaves no trace: what was decided is thrown away,
-- and the others run again without it.
-- types (readied, taken: how many tasks of each), workers (woken: the same as a set), what ended, and what bells.lua is to do.
local function no_effects()
    return {types = {}, readied = {}, taken = {}, workers = {}, woken = {}, ended = {}, ends = {}, ended_more = false, todo = false, bells = {},
        left = {}}
end

local function run_all(ops, header)
    local replies, failed, from = {}, {}, 1
    fx = no_effects()
    while from <= #ops do
        dt.fresh()
        if not meta_load() and ops[1][1] ~= 11 then return {ENOTFOUND, 'the shard is empty'} end
        local i = from
        while i <= #ops do
            if failed[i] then
                replies[i] = failed[i]
            else
                dt.flushed = false
                local ok, reply, err, text = pcall(run, ops[i], header[3] or '', header[5] and header[5] ~= 0 and header[5] or CASCADE)
                if dt.flushed then from = i end
                if not ok then
                    failed[i] = failure(reply)
                    break
                end
                replies[i] = err and {err, text} or {0, reply}
            end
            i = i + 1
        end
        if i > #ops then break end
        if from == 1 then
            fx = no_effects()
        end
    end
    return replies
end

local function answer_all(args)
    local header, ops = mpu(args[1]), {}
    dt.writes, dt.asked = false, false
    if header[1] ~= 1 then return {EVERSION, 'the script in Redis is of format 1: upgrade dynatask'} end
    now = header[2] or 0
    if now == 0 then
        local t = call('TIME')
        now = t[1] * 1000000 + t[2]
    end
    for i = 2, #args do ops[i - 1] = mpu(args[i]) end
    local replies = run_all(ops, header)
    if #ops > 0 and type(replies[1]) ~= 'table' then return replies end
    dt.flush()
    local hungry, effects = {}, {NONE, NONE, NONE, fx.todo, false, meta.era}
    for i, op in ipairs(ops) do
        if op[1] == 2 and replies[i][1] == 0 then dt.hungry(op[2], op[7] or NONE, hungry) end
    end
    if (header[4] or 0) % 2 == 1 then effects = {fx.types, fx.workers, fx.ended, fx.todo, fx.ended_more, meta.era}
    else dt.ring() end
    return {0, '', hungry, effects, replies}
end

-- What the server calls; the chunk itself runs once.
return function(keys, args)
    P = keys[1] .. ':'
    local ok, answer = pcall(answer_all, args)
    if not ok then answer = failure(answer) end
    return mp(answer)
end
