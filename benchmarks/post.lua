-- wrk: POST the bodies in the file BENCH_BODIES, one a line, in turn, each with a number in place of BENCH_NUMBER.
local bodies, asked = {}, 0
for line in io.lines(os.getenv("BENCH_BODIES")) do
  bodies[#bodies + 1] = line
end
wrk.method = "POST"
wrk.body = bodies[1]
wrk.headers["Content-Type"] = "application/json"

if #bodies > 1 then -- without this function wrk sends the same bytes again, which costs it less
  function request()
    asked = asked + 1
    local number = string.format("%06d", asked % 1000000)
    local body = bodies[asked % #bodies + 1]:gsub(os.getenv("BENCH_NUMBER"), number)
    return wrk.format(nil, nil, nil, body)
  end
end
