-- A task's log, what it is told of, and mail. See core/model/log.c.
lazy(function()
local function counted(kind) return kind ~= KID and kind ~= WOKE end

function dt.log_add(t, kind, ord, name, data)
    log_write(t.job, t.ord, t.logn, kind, ord, name, data)
    t.logn = t.logn + 1
    if not counted(kind) then return end
    t.notes = t.notes + 1
    t.log_bytes = t.log_bytes + #name + #data
end

function dt.log_emit(t, name, data)
    local j = t.j
    log_write(t.job, EMITS, j.log_n, EMIT, t.ord, name, data)
    j.log_n = j.log_n + 1
    j.log_bytes = j.log_bytes + #name + #data
    t.emits = t.emits + 1
end

function dt.log_unread(t) -- a signal or kid
    local n, row = log_from(t.job, t.ord, t.logr, t.logn)
    while n do
        if row.kind == SIG or row.kind == KID then return true end
        n, row = log_from(t.job, t.ord, n + 1, t.logn)
    end
    return false
end

-- Kids that were read are of no more use, but to a replay.
function dt.log_read(t, read)
    read = min(read, t.logn)
    if read <= t.logr then return end
    if band(t.bits, JOURNAL) == 0 then
        local n, row = log_from(t.job, t.ord, t.logr, read)
        while n do
            if row.kind == KID then hset(log_hash(t.job, t.ord), n, false) end
            n, row = log_from(t.job, t.ord, n + 1, read)
        end
    end
    t.logr = read
end

function dt.log_restart(t) -- become: all but unread signals and undo calls
    local n, row = log_from(t.job, t.ord, 0, t.logn)
    while n do
        if row.kind ~= UNDOING and not (row.kind == SIG and n >= t.logr) then
            hset(log_hash(t.job, t.ord), n, false)
            if counted(row.kind) then
                t.notes = t.notes - 1
                t.log_bytes = t.log_bytes - #row.name - #row.data
            end
        end
        n, row = log_from(t.job, t.ord, n + 1, t.logn)
    end
end

-- ---- told: a list of {first, count, bad_only} ---------------------------------------------
local function told(t)
    local l = t.told
    if not l then
        l = band(t.bits, TELLS) ~= 0 and mpu(data_get(t.job, t.ord, D_TOLD)) or {}
        t.told = l
    end
    return l
end

function dt.told_has(t, ord, is_bad)
    for _, r in ipairs(told(t)) do
        if ord >= r[1] and ord - r[1] < r[2] and (is_bad or not r[3]) then return true end
    end
    return false
end

function dt.told_add(t, add)
    local have = told(t)
    for _, r in ipairs(add) do
        local first, last, at, bad_only = r[1], r[1] + r[2], 1, r[3] or false
        while have[at] and (have[at][3] ~= bad_only or first > have[at][1] + have[at][2] or last < have[at][1]) do at = at + 1 end
        if at == 257 then -- one for all
            for _, h in ipairs(have) do
                first = min(first, h[1])
                last = max(last, h[1] + h[2])
            end
            have = {{first, last - first, false}}
        elseif not have[at] then
            have[at] = {first, r[2], bad_only}
        else
            local h = have[at]
            first = min(first, h[1])
            last = max(last, h[1] + h[2])
            have[at] = {first, last - first, bad_only}
        end
    end
    t.told = have
    if #have == 0 then return end
    data_set(t, D_TOLD, mp(have))
    t.bits = bor(t.bits, TELLS)
end

function dt.told_clear(t)
    data_set(t, D_TOLD, false)
    t.told = nil
    t.bits = t.bits - band(t.bits, TELLS)
end

-- ---- mail -------------------------------------------------------------------------------------
-- How a task ended, as whoever awaited it gets it. A success with failed
-- descendants comes with the first of their failures.
function dt.mail_of(n, r)
    local is_bad, blame, of = bad(r), r.ord, r
    if is_bad and r.state == SUCCEEDED then
        local failed = look(r.job, r.blame)
        if failed then blame, of = r.blame, failed end
    end
    local data = ''
    if good(of) then data = data_get(r.job, blame, D_RESULT)
    elseif band(of.bits, HAS_ERROR) ~= 0 then data = data_get(r.job, blame, D_ERROR) end
    return {n, KID, r.ord, r.state, is_bad, r.reason, blame, of.state, of.reason,
        of.tries + of.lost + (of.state ~= FAILED and 1 or 0), dt.type_name(of.type), '', data}
end

-- Up to `most` entries from `from` on; all: also those that are no mail.
-- Returns them, whether there are more, and where to go on.
function dt.mails(no, ord, from, most, all)
    local l, got, last, next = {}, 0, log_end(no, ord), from
    local n, row = log_from(no, ord, from, last)
    while n do
        next = n
        if all or row.kind == KID or row.kind == SIG then
            if got == most then return l, true, n end
            local kid = row.kind == KID and look(no, row.ord)
            got = got + 1
            if kid then l[got] = dt.mail_of(n, kid)
            else l[got] = {n, row.kind, row.ord, 0, false, 0, 0, 0, 0, 0, '', row.name, row.data} end
        end
        n, row = log_from(no, ord, n + 1, last)
        next = next + 1
    end
    return l, false, next
end
end)
