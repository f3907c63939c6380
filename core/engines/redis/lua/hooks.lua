-- What a completion starts: callbacks, triggers, undo. The job's id names
-- the occurrence, so that it is started once. See core/model/hooks.c.
--
-- There is no XXH3 here: the call of a job that the model starts is zeros.
lazy(function()
-- ---- msgpack --------------------------------------------------------------------------
local function text(s) return '\218' .. pack('>I2', #s) .. s end
local function value(key, v) return text(key) .. (v ~= '' and v or '\192') end

-- {"joined": id}: why a task was skipped for one with the same unique key.
function dt.joined_note(id) return '\129' .. text('joined') .. text(id) end

-- One argument: the handle of a job (sign J) or a task (T).
local function handle_args(sign, id) return '\145\200' .. pack('>I2', #id + 1) .. '\1' .. sign .. id end

-- Where the value at `at` ends. It was checked when it came.
local function skip(s, at)
    local left = 1
    while left > 0 do
        local c = byte(s, at)
        at, left = at + 1, left - 1
        if c < 128 or c >= 224 or c == 192 or c == 194 or c == 195 then -- one byte
        elseif c < 144 then left = left + 2 * (c - 128)
        elseif c < 160 then left = left + c - 144
        elseif c < 192 then at = at + c - 160
        elseif c <= 198 then -- bin
            local w = 2 ^ (c - 196)
            at = at + w + unpack_s('>I' .. w, s, at)
        elseif c <= 201 then -- ext
            local w = 2 ^ (c - 199)
            at = at + w + 1 + unpack_s('>I' .. w, s, at)
        elseif c <= 203 then at = at + 4 * (c - 201)
        elseif c <= 207 then at = at + 2 ^ (c - 204)
        elseif c <= 211 then at = at + 2 ^ (c - 208)
        elseif c <= 216 then at = at + 1 + 2 ^ (c - 212)
        elseif c <= 219 then
            local w = 2 ^ (c - 217)
            at = at + w + unpack_s('>I' .. w, s, at)
        elseif c <= 221 then
            local w = c == 220 and 2 or 4
            left = left + unpack_s('>I' .. w, s, at)
            at = at + w
        else
            local w = c == 222 and 2 or 4
            left = left + 2 * unpack_s('>I' .. w, s, at)
            at = at + w
        end
    end
    return at
end

-- The head of an array or map: how many values, where they begin.
local function head(s, fix, wide)
    local c = byte(s, 1)
    if not c then return 0, 1 end
    if c >= fix and c < fix + 16 then return c - fix, 2 end
    if c == wide then return unpack_s('>I2', s, 2), 4 end
    if c == wide + 1 then return unpack_s('>I4', s, 2), 6 end
    return 0, 1
end

local function mp_at(s, i) -- element i (from 0) of an array; '': none
    local n, at = head(s, 144, 220)
    if i < 0 or i >= n then return '' end
    for _ = 1, i do at = skip(s, at) end
    return sub(s, at, skip(s, at) - 1)
end

local function mp_get(s, key)
    local n, at = head(s, 128, 222)
    for _ = 1, n do
        local mid = skip(s, at)
        local stop = skip(s, mid)
        local c = byte(s, at)
        local from = c >= 160 and c < 192 and at + 1 or c >= 217 and c <= 219 and at + 1 + 2 ^ (c - 217)
        if from and sub(s, from, mid - 1) == key then return sub(s, mid, stop - 1) end
        at = stop
    end
    return ''
end

local function number(v, any) -- any: also one that is no integer
    local c = byte(v, 1)
    if c and (c < 128 or c >= 224 or (c >= 204 and c <= 211) or (any and (c == 202 or c == 203))) then return mpu(v) end
end

local function occurrence(t, id)
    local args, result = data_get(t.job, t.ord, D_ARGS), data_get(t.job, t.ord, D_RESULT)
    local err = band(t.bits, HAS_ERROR) ~= 0 and data_get(t.job, t.ord, D_ERROR) or ''
    return '\135' .. text('source') .. text(dt.type_name(t.type)) .. text('task') .. text(id) .. text('state') .. text(state_names[t.state])
        .. value('value', result) .. value('error', err) .. value('arguments', args) .. text('time') .. '\211' .. pack('>I8', now)
end

-- ---- starting ----------------------------------------------------------------------------
local function call_of(row, args)
    local _, options = type_texts(row.no)
    local retries, prio = number(mp_get(options, 'retries')) or 0, number(mp_get(options, 'priority')) or 0
    local timeout = number(mp_get(options, 'timeout'), true) or 0
    return {row.no, prio, 0, ZERO16, args, retries, row.crashes, floor(timeout * 1000)}
end

local function start(t, of, suffix, type, hook, args, trigger)
    local row = type_row(type)
    if not row then return end
    local id = of .. '!' .. (suffix or row.name)
    if dt.id_check(id) or dt.job_find(id) then return end
    local j = t.j
    if hook then j.hooks = j.hooks + 1 end
    dt.job_begin({0, id, call_of(row, args ~= '' and args or '\144'), '', trigger, 0, j.max_tasks, j.max_depth, j.keep, j.retain_us, j.grace_us,
        j.blob_min},
        hook and t.job or 0, '')
end

local function passes(t, filter)
    if filter == '' then return true end
    local args, i = data_get(t.job, t.ord, D_ARGS), 0
    while true do
        local at = mp_at(filter, i)
        if at == '' then return true end
        local pos = number(at)
        if not pos or mp_at(args, pos) ~= mp_at(filter, i + 1) then return false end
        i = i + 2
    end
end

-- Those that listen to `subject` (a type's name; '': any root), in the order of their types.
local function listeners(t, subject, kind, of)
    local l = {}
    for field, s in pairs(hall(hash(P .. 'listen'))) do
        local k, listener = unpack_s('>BI4', field)
        if s and k == kind and sub(field, 6) == subject then insert(l, {listener, s}) end
    end
    table.sort(l, function(x, y) return x[1] < y[1] end)
    for _, at in ipairs(l) do
        local states, filter = mpu(at[2])
        if floor(states / 2 ^ t.state) % 2 == 1 then
            if kind == 0 then start(t, of, nil, at[1], true, handle_args('J', of), '')
            elseif passes(t, filter) then start(t, of, nil, at[1], false, '', occurrence(t, of)) end
        end
    end
end

function dt.hooks(t) -- it completed
    if band(t.bits, UNDO) ~= 0 and (t.state == FAILED or t.state == CANCELLED) then
        local id = dt.task_id(t.job, t.ord)
        start(t, id, 'undo', meta.undo_type, true, handle_args('T', id), '')
    end
    local row = type_row(t.type)
    local root = (t.ord ~= 0 or t.j.type == t.type) and row or type_row(t.j.type)
    if row and row.listeners ~= 0 then listeners(t, row.name, 1, dt.task_id(t.job, t.ord)) end
    if t.ord ~= 0 or not ((root and root.listeners ~= 0) or meta.any_root ~= 0) then return end
    local id = data_get(t.job, 0, D_ID)
    if id:find('!', 1, true) then return end -- no callbacks of callbacks
    if root and root.listeners ~= 0 then listeners(t, root.name, 0, id) end
    if meta.any_root ~= 0 then listeners(t, '', 0, id) end
end

-- "<type>@<seconds>": a cron's tick. 0: it is there.
function dt.tick_begin(row, at)
    local id = row.name .. '@' .. format('%.0f', floor(at / 1000000))
    if dt.job_find(id) then return 0 end
    local trigger = '\130' .. text('source') .. text(row.name) .. text('time') .. '\211' .. pack('>I8', at)
    return dt.job_begin({0, id, call_of(row, '\144'), '', trigger, 0, 0, 0, 0, 86400000000, 30000000}, 0, '')
end
end)
