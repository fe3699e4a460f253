-- No request like the one before: for servers that recognise what repeats.
local count = 0

function request()
    count = count + 1
    return wrk.format("GET", "/?number=" .. count)
end
