-- done: ends of jobs that somebody outside is to be told (the engine kafka,
-- which puts them into a topic). An end is kept with the change that ends its
-- job, until it is acknowledged: 2 keep, 3 worker, 4 era, 5 upto, 6 n.
-- reply: on, era, first, how many wait, the first of them.
--
-- They are numbered. One worker at a time is given the first ones; who comes
-- after it when it died, or was silent for long, is given them again. An
-- acknowledgement of another era is void, for the numbers may be others' now.
lazy(function()
local BATCH_BYTES, INLINE, MESSAGE, SILENT_US = 262144, 1024, 1000, 10000000
local states = {[JOB_SUCCEEDED] = 'succeeded', [JOB_FAILED] = 'failed', [JOB_CANCELLED] = 'cancelled'}
local reasons = {'after', 'limit', 'expired', 'unique', 'test', 'lost', 'children', 'grace'} -- dti_reason_name

local function cut(s) -- no letter in halves
    if #s <= MESSAGE then return s end
    local n = MESSAGE
    while n > 0 and byte(s, n + 1) >= 128 and byte(s, n + 1) < 192 do n = n - 1 end
    return sub(s, 1, n)
end

-- Type and message of an error map; nil: it is none, or has what cmsgpack does not read.
local function error_of(raw)
    local ok, e = pcall(mpu, raw)
    if ok and type(e) == 'table' and type(e.type) == 'string' and type(e.message) == 'string' then
        return mp({type = cut(e.type), message = cut(e.message)})
    end
end

-- A map, put together by hand: the result's bytes stay as they are. proto/kafka.md.
local function record(j, root)
    local no, n, out = j.no, 0, {''}
    local function put(name, raw)
        n = n + 1
        insert(out, mp(name))
        insert(out, raw)
    end
    put('id', mp(data_get(no, 0, D_ID)))
    put('format', mp(1))
    put('type', mp(dt.type_name(root.type)))
    put('state', mp(states[j.state]))
    put('created', mp(j.created))
    put('ended', mp(j.ended))
    put('tasks', mp(j.next))
    if j.state == JOB_SUCCEEDED then
        local result = data_get(no, 0, D_RESULT)
        if #result > INLINE then put('result_bytes', mp(#result)) elseif result ~= '' then put('result', result) else put('result', '\192') end
    else
        local raw = root.state ~= SKIPPED and data_get(no, 0, D_ERROR) or ''
        local e = raw ~= '' and error_of(raw)
        if e then put('error', e) end
        local reason = root.reason ~= 0 and reasons[root.reason] or j.state == JOB_FAILED and root.state == SUCCEEDED and 'children'
        if reason then put('reason', mp(reason)) end
    end
    out[1] = char(128 + n)
    return concat(out)
end

function dt.done_keep(root)
    local h = hash(P .. 'done')
    local no = tonumber(hget(h, 'next') or nil) or 1
    hset(h, format('%d', no), record(root.j, root))
    hset(h, 'next', format('%d', no + 1))
end

local function acknowledge(h, first, upto)
    for no = first, upto - 1 do hset(h, format('%d', no), false) end
    hset(h, 'first', format('%d', upto))
    if hget(h, 'who') then hset(h, 'who', false) end
end

local function may_have(h, worker)
    local who = tonumber(hget(h, 'who') or nil)
    if not who or who == worker or now >= tonumber(hget(h, 'until') or nil) then return true end
    local w = worker_seen(who)
    return not w or w.dead ~= 0
end

local function some(h, first, next, n)
    local fields, out, bytes = {}, {}, 0
    for no = first, min(next, first + n) - 1 do insert(fields, format('%d', no)) end
    ahead(h, fields)
    for i = 1, #fields do
        local r = hget(h, fields[i])
        bytes = bytes + #r
        if i > 1 and bytes > BATCH_BYTES then break end
        out[i] = r
    end
    return out
end

function dt.op_done(op)
    local h, keep, worker, n = hash(P .. 'done'), op[2] or 0, op[3] or 0, op[6] or 0
    ahead(h, {'on', 'first', 'next', 'who', 'until'})
    if keep == 1 and not hget(h, 'on') then hset(h, 'on', '1') elseif keep == 2 and hget(h, 'on') then hset(h, 'on', false) end
    local first, next = tonumber(hget(h, 'first') or nil) or 1, tonumber(hget(h, 'next') or nil) or 1
    local upto, out = min(op[5] or 0, next), NONE
    if op[4] == meta.era and upto > first then
        acknowledge(h, first, upto)
        first = upto
    end
    local mine = n > 0 and first < next and may_have(h, worker)
    if mine then
        out = some(h, first, next, n)
        hset(h, 'who', format('%d', worker))
    end
    if mine or tonumber(hget(h, 'who') or nil) == worker then hset(h, 'until', format('%d', now + max(SILENT_US, meta.lease_us))) end
    return {hget(h, 'on') and true or false, meta.era, first, next - first, out}
end
end)
