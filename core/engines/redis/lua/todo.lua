-- The bounded cascade, and what it leaves. See core/model/todo.c.
room(function()
local does = {[DO_COMPLETE] = 'do_complete', [DO_SETTLE] = 'do_settle', [DO_WAKE] = 'do_wake', [DO_EDGES] = 'do_edges', [DO_DROP] = 'do_drop',
    [DO_CANCEL] = 'do_cancel', [DO_CANCEL_KIDS] = 'do_cancel_kids', [DO_CANCEL_JOB] = 'do_cancel_job', [DO_PAUSE] = 'do_pause',
    [DO_RESUME] = 'do_resume', [DO_LANES] = 'do_lanes', [DO_PURGE] = 'do_purge', [DO_LIMIT] = 'do_limit', [DO_WORKER] = 'do_worker'}

local function add(d)
    local kind = d.kind
    local q = (kind == DO_DROP or kind == DO_LANES or kind == DO_PURGE) and work.room or work.todo
    q.n = q.n + 1
    q[q.n] = d
end

-- key: of DO_LIMIT, the limit's; count: of DO_CANCEL_KIDS, whose cursor is the first.
function dt.push(kind, job, ord, cursor, arg, key, count)
    add({kind = kind, job = job, ord = ord, cursor = cursor, arg = arg, key = key, count = count})
end

-- May a pass take its i-th row in this call? The first always (its step was
-- counted), the others while the operation has steps left.
function dt.spend(i)
    if i == 0 then return true end
    if i >= CHUNK or work.steps >= work.limit then return false end
    work.steps = work.steps + 1
    return true
end

local function encode(n, d) return mp({1, n, d.kind, d.job, d.ord, d.cursor, d.arg, d.count or 0, d.key or ''}) end

local function take_stored(name, count)
    if meta[count] == 0 then return end
    local s = fifo_take(fifo(P .. name))
    if not s then return end
    meta[count] = meta[count] - 1
    local v = mpu(s)
    if v[1] ~= 1 or v[3] > DO_WORKER then
        raise(EVERSION, 'the shard has work of kind %d, made by a newer release: upgrade', v[3])
    end
    return {kind = v[3], job = v[4], ord = v[5], cursor = v[6], arg = v[7], count = v[8], key = v[9]}
end

local function take(q, name, count, stored)
    while work.steps < work.limit do
        local d = q[q.head]
        if d then
            q[q.head] = nil
            q.head = q.head + 1
        else
            d = stored and take_stored(name, count)
            if not d then break end
        end
        work.steps = work.steps + 1
        if dt[does[d.kind]](d) then add(d) end
    end
end

function dt.cascade(stored)
    take(work.todo, 'todo', 'todo_n', stored)
    dt.lane_flush()
end

function dt.make_room(steps)
    work.limit = work.steps + steps
    take(work.room, 'room', 'room_n', true)
end

local function leave(q, name, count)
    while q[q.head] do
        fifo_put(fifo(P .. name), encode(meta.next_todo, q[q.head]))
        meta.next_todo = meta.next_todo + 1
        meta[count] = meta[count] + 1
        q.head = q.head + 1
    end
end

-- The rest goes to todo; true: some of it only makes room.
function dt.leave()
    dt.lane_flush()
    leave(work.todo, 'todo', 'todo_n')
    leave(work.room, 'room', 'room_n')
    fx.todo = meta.todo_n > 0
    return meta.room_n > 0
end
end)
