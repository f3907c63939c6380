-- intake: a start that lies in a log outside (the engine kafka), taken in with
-- the log's position: 2 source, 3 from, 4 next, 5 START or nothing, 6 why that
-- START is refused, or nothing. reply: status, the position now.
--
-- The position moves from `from` to `next` together with what was started, or
-- not at all; so whatever the store has lost, or whoever reads beside, each
-- start is taken in once and none is left out.
lazy(function()
-- Who started it is told by a job that has failed. One that is there stays.
local function failed(s, id, kind, what)
    if dt.id_check(id) or dt.job_find(id) then return end
    s[2], s[3][13] = id, nil
    dt.job_begin(s, 0, '', mp({type = kind, message = what}))
end

-- Its type's row; the number is set where a name was given.
local function type_of(s)
    local name, row = s[13], type_row(s[3][1])
    if name and not (row and row.name == name) then
        s[3][1] = dt.type_find(name, 0) or 0
        row = type_row(s[3][1])
    end
    return row
end

function dt.op_intake(op)
    local h, source, from, to = hash(P .. 'intake'), op[2], op[3] or 0, op[4] or 0
    local at = tonumber(hget(h, source) or nil) or 0
    if from == to then return {TAKEN, at} end
    if at >= to then return {TAKEN_BEFORE, at} end
    if at ~= from then return {TAKEN_NOT, at} end
    local s, refused = op[5], op[6]
    if s and not type_of(s) then return nil, ENOTFOUND, 'the type of a start that was taken in is not registered' end
    if s and refused then
        failed(s, s[2], 'Refused', refused)
    elseif s then
        local err, text = dt.id_check(s[2])
        if err then return nil, err, text end
        local status = dt.op_start(s)[1]
        if status == CONFLICT then
            failed(s, s[2] .. '!conflict', 'Conflict', 'the job ' .. s[2] .. ' was there with another call: choose another id, or give the same arguments')
        end
    end
    hset(h, source, format('%d', to))
    return {TAKEN, to}
end
end)
