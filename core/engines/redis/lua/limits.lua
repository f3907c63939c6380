-- Limits and unique keys. See core/model/limits.c.
-- KEY: 1 hash, 2 kind (0 limit, 1 unique), 3 over, 4 until, 5 scope, 6 same, 7 max, 8 per_us, 9 keep_us.
lazy(function()
-- Two limits that differ in their period, or in the job they are of, are not one.
function dt.key_of(s, job)
    return s[1] .. pack('<I8I8i8', s[2], s[5] ~= 0 and job or 0, s[2] == 0 and s[8] or 0)
end
local key_of = dt.key_of

local function specs(t)
    local s = t.keys
    if not s then
        s = data_get(t.job, t.ord, D_KEYS)
        s = s ~= '' and mpu(s) or NONE
        t.keys = s
    end
    return s
end

function dt.key_at(t, i) return specs(t)[i] end

function dt.keys_store(t, keys, more)
    local to, at = {}, {}
    for _, s in ipairs(keys) do
        s = {s[1], s[2] or 0, s[3] or 0, s[4] or 0, s[5] or 0, s[6] or false, s[7] or 0, s[8] or 0, s[9] or 0}
        local key = key_of(s, t.job)
        local same = at[key]
        if not same then
            insert(to, s)
            at[key] = s
        elseif s[7] < same[7] then
            same[7] = s[7]
        end
    end
    if more then insert(to, more) end
    t.keys = to
    if #to > 0 then
        data_set(t, D_KEYS, mp(to))
        t.bits = bor(t.bits, HAS_KEYS)
    elseif band(t.bits, HAS_KEYS) ~= 0 then
        data_set(t, D_KEYS, false)
        t.bits = t.bits - HAS_KEYS
    end
end

-- ---- permits ---------------------------------------------------------------------------
local function limit_row(s, job)
    local key = key_of(s, job)
    local l = limit_at(key)
    if not l then
        l = limit_new(key, meta.next_limit)
        meta.next_limit = meta.next_limit + 1
    end
    l.max = s[7]
    return l
end

local function free_one(key)
    local l = limit_at(key)
    if not l or l.used == 0 then raise(EINTERNAL, 'a permit comes back that nobody holds') end
    l.used = l.used - 1
    if l.head ~= l.tail then dt.push(DO_LIMIT, 0, 0, 0, 0, key)
    elseif l.used == 0 then limit_gone(l) end
end
dt.limit_lapsed = free_one

-- Takes all permits that it lacks, or none: 0, or the place in KEYS of the
-- first that is full. waking: those with a period are not needed.
function dt.permits_take(t, waking)
    local keys, taken = specs(t), false
    for i, s in ipairs(keys) do
        if s[2] == 0 and not (waking and s[8] ~= 0) then
            local l = limit_row(s, t.job)
            if l.used >= l.max then return i end
        end
    end
    for _, s in ipairs(keys) do
        if s[2] == 0 and not (waking and s[8] ~= 0) then
            local l = limit_row(s, t.job)
            l.used = l.used + 1
            taken = true
        end
    end
    if taken then t.bits = bor(t.bits, PERMIT) end
    return 0
end

function dt.permits_return(t, all)
    for _, s in ipairs(specs(t)) do
        if s[2] == 0 and (all or s[8] == 0) then free_one(key_of(s, t.job)) end
    end
    t.bits = t.bits - band(t.bits, PERMIT)
end

function dt.permits_claimed(t)
    local keeps = false
    for _, s in ipairs(specs(t)) do
        if s[2] == 0 then
            if s[8] ~= 0 then lapse(now + s[8], LAPSE_LIMIT, key_of(s, t.job)) else keeps = true end
        end
    end
    if not keeps then t.bits = t.bits - band(t.bits, PERMIT) end
end

-- ---- the line ------------------------------------------------------------------------------
function dt.limit_await(t, full, first)
    local l = limit_row(specs(t)[full], t.job)
    t.wait = bor(t.wait, LIMIT_WAIT)
    t.at_limit = full
    local last = not first and l.head ~= l.tail and ext_get(l, l.tail - 1)
    if last and last.job == t.job and last.first + last.count == t.ord then
        ext_put(l, l.tail - 1, {first = last.first, count = last.count + 1, job = t.job})
    elseif first then
        l.head = l.head - 1
        ext_put(l, l.head, {first = t.ord, count = 1, job = t.job})
    else
        ext_put(l, l.tail, {first = t.ord, count = 1, job = t.job})
        l.tail = l.tail + 1
    end
end

-- Offers free permits down the line. Some in it may have left: cancelled,
-- expired, in line elsewhere.
function dt.do_limit(d)
    local i = 0
    while dt.spend(i) do
        i = i + 1
        local l = limit_at(d.key)
        if not l then return false end
        if l.head == l.tail then
            if l.used == 0 then limit_gone(l) end
            return false
        end
        if l.used >= l.max then return false end
        local e = ext_get(l, l.head)
        local t = task(e.job, e.first)
        if e.count > 1 then
            ext_put(l, l.head, {first = e.first + 1, count = e.count - 1, job = e.job})
        else
            ext_put(l, l.head, false)
            l.head = l.head + 1
        end
        if t and band(t.wait, LIMIT_WAIT) ~= 0 and key_of(specs(t)[t.at_limit], t.job) == d.key then
            t.wait = t.wait - LIMIT_WAIT
            t.at_limit = 0
            if t.state == PARKED then dt.wake_up(t) else dt.admit(t) end
        end
    end
    return true
end

-- ---- unique keys ------------------------------------------------------------------------------
function dt.unique_of(new)
    local keys = new[13]
    for i = 1, keys and #keys or 0 do
        if keys[i][2] == 1 then return keys[i] end
    end
end

function dt.unique_find(key)
    local u = uniq_at(key)
    if not u or (u.freed ~= 0 and u.lapse <= now) then return end
    if data_get(u.job, 0, D_ID) == '' then return end -- its job is being purged
    return u
end

function dt.unique_take(key, s, job, ord, call_hash)
    uniq_put(key, {['until'] = s[4] or 0, scope = s[5] or 0, freed = 0, ord = ord, job = job, call = call_hash, keep_us = s[9] or 0, lapse = 0})
end

local function held_by(s, job, ord)
    if s[2] ~= 1 then return end
    local key = key_of(s, job)
    local u = uniq_at(key)
    if u and u.job == job and u.ord == ord then return u, key end
end

function dt.unique_free(t, begun)
    for _, s in ipairs(specs(t)) do
        local u, key = held_by(s, t.job, t.ord)
        if u and u.freed == 0 and u.scope == 0 and not (begun and u['until'] ~= 1) then
            if u.keep_us ~= 0 then
                u.freed = 1
                u.lapse = now + u.keep_us
                lapse(u.lapse, LAPSE_UNIQUE, key)
                uniq_put(key, u)
            else
                uniq_put(key, false)
            end
        end
    end
end

-- The task's row goes, and so does what its key says of it.
function dt.unique_forget(t)
    for _, s in ipairs(specs(t)) do
        local u, key = held_by(s, t.job, t.ord)
        if u then uniq_put(key, false) end
    end
end
end)
