-- SPDX-License-Identifier: Apache-2.0
-- The API of lib/api.py on mod_lua; files are served by the core (sendfile).

local function read_body(r)
	if r.method ~= "GET" and r.method ~= "HEAD" then
		r:requestbody(1024 * 1024 * 1024)
	end
end

local function answer(r, body)
	r.headers_out["Content-Length"] = tostring(#body)
	r:write(body)
	return apache2.OK
end

local function status(r, code)
	r.status = code
	if code == 204 or code == 304 then
		return apache2.OK
	end
	if code == 301 or code == 302 then
		r.headers_out["Location"] = "/"
	end
	return answer(r, code .. "\n")
end

local function chunked(r, n)
	for _ = 1, n do
		r:write("0123456789abcde\n")
		r:flush()
	end
	return apache2.OK
end

function handle(r)
	local code = r.uri:match("^/status/(%d+)$")
	local n = r.uri:match("^/chunked/(%d+)$")

	r.content_type = "text/plain"
	read_body(r)
	if code then
		return status(r, tonumber(code))
	elseif n then
		return chunked(r, tonumber(n))
	elseif r.uri == "/v1/enrich" then
		return answer(r, string.rep("e", 256))
	elseif r.uri:match("^/v1/documents/[^/]+/extract$") then
		r:write(string.rep("x", 512))
		return apache2.OK
	elseif r.uri == "/slow" then
		r.usleep(math.floor(tonumber(r.args:match("s=([%d.]+)")) * 1000000))
	elseif r.uri == "/close" then
		r:write("bye\n")
		r:flush()
		return apache2.OK
	end
	return answer(r, "ok\n")
end
