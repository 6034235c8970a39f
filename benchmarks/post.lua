-- wrk: POST the body in BENCH_BODY, and say how many answers were no 200.
wrk.method = "POST"
wrk.body = os.getenv("BENCH_BODY")
wrk.headers["Content-Type"] = "application/json"
