-- dump: all rows of the shard, for tests: each with its table's name, its
-- key, its fields, in plain bytes where C has hashes.
lazy(function()
local function keys(pattern) return call('KEYS', P:gsub('[%*%?%[%]\\]', '\\%0') .. pattern) end
local function rest(key, from) return sub(key, #P + from) end

local function dump_job(out, key)
    local no = tonumber(rest(key, 3))
    local got = call('HGETALL', key)
    for i = 1, #got, 2 do
        local field, s = got[i], got[i + 1]
        if field == 'j' then insert(out, {'job', no, s})
        elseif field == 'r' then insert(out, {'task', no, 0, s})
        elseif field == KIND[D_KIDS] then
            for at = 1, #s, 16 do insert(out, {'kids', no, 0, sub(s, at, at + 15)}) end
        elseif tonumber(field) then
            insert(out, {'data', no, 0, tonumber(field), s})
        elseif s ~= '' then -- a lane
            local _, code, lane, vtime, head, tail, next, first, count = unpack_s('<BI4I6I7i5i5I4I4I4', s)
            insert(out, {'lane', floor(code / 8), no, code % 8, lane, vtime, head, tail, next})
            if tail - head == 1 then
                insert(out, {'ext', lane, head, first, count, no})
            else
                local x = call('HGETALL', P .. 'x:' .. lane)
                for at = 1, #x, 2 do
                    local e = ext_decode(x[at + 1])
                    insert(out, {'ext', lane, tonumber(x[at]), e.first, e.count, e.job})
                end
            end
        end
    end
end

local function dump_bucket(out, key)
    local kind, no, bucket_no = rest(key, 1):match('^(%a):(%d+):(%d+)$')
    no = tonumber(no)
    local got = call('HGETALL', key)
    for i = 1, #got, 2 do
        local ord = bucket_no * 64 + byte(got[i])
        local s = got[i + 1]
        if kind == 't' then insert(out, {'task', no, ord, s})
        elseif byte(got[i], 2) == D_KIDS then
            for at = 1, #s, 16 do insert(out, {'kids', no, ord, sub(s, at, at + 15)}) end
        else insert(out, {'data', no, ord, byte(got[i], 2), s}) end
    end
end

local function dump_blobs(out)
    for _, key in ipairs(keys('b:*')) do
        local no = tonumber(rest(key, 3))
        local got = call('HGETALL', key)
        for i = 1, #got, 2 do
            local before, v = blob_split(got[i + 1])
            insert(out, {'blob', no, got[i], before, v})
        end
    end
end

local function dump_sets(out)
    for _, key in ipairs(keys('q:*')) do
        for e in each(turnq(tonumber(rest(key, 3)))) do insert(out, {'turnq', tonumber(rest(key, 3)), e.s, e.no, e.prio, e.job}) end
    end
    for _, key in ipairs(keys('alone:*')) do
        for e in each(alone(tonumber(rest(key, 7)))) do insert(out, {'alone', tonumber(rest(key, 7)), e.job, e.ord}) end
    end
    for _, key in ipairs(keys('held:*')) do
        for _, e in ipairs(held_all(tonumber(rest(key, 6)))) do insert(out, {'held', tonumber(rest(key, 6)), e.job, e.ord}) end
    end
    for _, key in ipairs(keys('wakes:*')) do
        local no = tonumber(rest(key, 7))
        for e in each(wakes_of(no)) do insert(out, {'wake', no, e.n, e.cancel, e.ord, e.job, e.token, e.seq}) end
    end
    for e in each(due_rows()) do insert(out, {'due', e.s, e.job, e.ord}) end
    for e in each(lapses()) do
        local no = e.kind >= LAPSE_WORKER
        insert(out, {'lapse', e.s, e.a, e.kind, no and unpack_s('>I6', e.of) or 0, no and '' or e.of})
    end
    for e in each(zset(P .. 'dead', decode_place, true)) do insert(out, {'dead', e.job, e.ord}) end
    for state = JOB_RUNNING, JOB_CANCELLED do
        for _, no in ipairs(call('ZRANGE', P .. 'jobs:' .. state, 0, -1)) do insert(out, {'jobs', state, tonumber(no)}) end
    end
end

local function dump_lists(out)
    for _, key in ipairs(keys('k:*')) do
        local no, ord = rest(key, 3):match('^(%d+):(%d+)$')
        for _, s in ipairs(call('LRANGE', key, 0, -1)) do insert(out, {'kids', tonumber(no), tonumber(ord), s}) end
    end
    for _, key in ipairs(keys('e:*')) do
        local no, dep = rest(key, 3):match('^(%d+):(%d+)$')
        for _, s in ipairs(call('LRANGE', key, 0, -1)) do insert(out, {'edge', tonumber(no), tonumber(dep), tonumber(s)}) end
    end
    for _, key in ipairs(keys('l:*')) do
        local no, ord = rest(key, 3):match('^(%d+):(.+)$')
        local got = call('HGETALL', key)
        for i = 1, #got, 2 do
            local _, kind, of, time, name_n, at = unpack_s('<BBI4I7I4', got[i + 1])
            insert(out, {'log', tonumber(no), tonumber(ord) or U32, tonumber(got[i]), kind, of, time, sub(got[i + 1], at, at + name_n - 1),
                sub(got[i + 1], at + name_n)})
        end
    end
    for _, name in ipairs({'todo', 'room'}) do
        for _, s in ipairs(call('LRANGE', P .. name, 0, -1)) do
            local v = mpu(s)
            insert(out, {'todo', v[2], name == 'room', v[3], v[4], v[5], v[6], v[7], v[8], v[9]})
        end
    end
end

local function dump_tables(out)
    local function pairs_of(name)
        local got, i = call('HGETALL', P .. name), -1
        return function()
            i = i + 2
            return got[i], got[i + 1]
        end
    end
    for no, s in pairs_of('types') do
        local signature, options = type_texts(tonumber(no))
        insert(out, {'type', tonumber(no), s, type_row(tonumber(no)).name, signature, options})
    end
    for field, no in pairs_of('typeid') do
        local version, name = field:match('^(%d+):(.*)$')
        insert(out, {'typeid', name, tonumber(version), tonumber(no)})
    end
    for id, no in pairs_of('ids') do insert(out, {'jobid', id, tonumber(no)}) end
    for no, s in pairs_of('workers') do insert(out, {'worker', tonumber(no), s}) end
    for name, no in pairs_of('workerid') do insert(out, {'workerid', name, tonumber(no)}) end
    for no, s in pairs_of('serves') do
        for _, type_no in ipairs(mpu(s)) do insert(out, {'serves', tonumber(no), type_no}) end
    end
    for no, s in pairs_of('cron') do
        local next, job = mpu(s)
        insert(out, {'cron', tonumber(no), next, job})
    end
    for field, s in pairs_of('listen') do
        local kind, listener = unpack_s('>BI4', field)
        local states, filter = mpu(s)
        insert(out, {'listen', sub(field, 6), kind, listener, states, filter})
    end
    for key, s in pairs_of('uniq') do
        local u = unpack_uniq(s)
        insert(out, {'uniq', key, u['until'], u.scope, u.freed, u.ord, u.job, u.call, u.keep_us, u.lapse})
    end
    for key, s in pairs_of('limit') do
        local no, max_n, used, h, t = unpack_s('<I6I7I6i5i5', s)
        insert(out, {'limit', key, no, max_n, used, h, t})
        local x = call('HGETALL', P .. 'w:' .. no)
        for at = 1, #x, 2 do
            local e = ext_decode(x[at + 1])
            insert(out, {'waiter', no, tonumber(x[at]), e.first, e.count, e.job})
        end
    end
end

function dt.op_dump()
    dt.flush()
    local out = {{'meta'}}
    for _, name in ipairs(META) do insert(out[1], meta[name]) end
    dump_blobs(out) -- before what refers to them
    for _, key in ipairs(keys('j:*')) do dump_job(out, key) end
    for _, kind in ipairs({'t:*', 'd:*'}) do
        for _, key in ipairs(keys(kind)) do dump_bucket(out, key) end
    end
    dump_sets(out)
    dump_lists(out)
    dump_tables(out)
    return out
end
end)
