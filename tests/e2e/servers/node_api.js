// SPDX-License-Identifier: Apache-2.0
// The API of lib/api.py on Node's http module. Arguments: log, idle seconds, files, ports.
//
// Bytes are the growth of the socket's own counters: those read, when the request has ended; those
// written, when the response has finished, before Node lets the next response to the socket.
// Exact for every exchange that is not pipelined.
'use strict';

const fs = require('fs');
const http = require('http');

const [logPath, idle, files, ports] = process.argv.slice(2);
const log = fs.openSync(logPath, 'a');
const BAD = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 };

function growth(socket, counter) {
	const grown = socket[counter] - (socket.metered[counter] || 0);
	socket.metered[counter] = socket[counter];
	return grown;
}

function note(socket, request, status, received, sent) {
	const h = request ? request.headers : {};
	const fields = [h['x-api-key'] || '', h['authorization'] || '',
		request ? request.method : '', request ? request.url : '', status,
		received ?? growth(socket, 'bytesRead'), sent ?? growth(socket, 'bytesWritten'),
		socket.metered.port];
	fs.writeSync(log, Buffer.from(fields.join('\t') + '\n', 'latin1'));
}

function answer(response, status, body) {
	response.writeHead(status, { 'Content-Length': Buffer.byteLength(body) });
	response.end(body);
}

function status(response, code) {
	if (code === 204 || code === 304) {
		response.writeHead(code);
		response.end();
	} else {
		answer(response, code, `${code}\n`);
	}
}

function chunked(response, left) {
	if (left === 0)
		return response.end();
	response.write('0123456789abcde\n');
	setImmediate(chunked, response, left - 1);
}

function file(response, size) {
	response.writeHead(200, { 'Content-Length': size });
	fs.createReadStream(`${files}/${size}`).pipe(response);
}

function gate(response) {
	response.setHeader('Transfer-Encoding', 'chunked'); // to HEAD, too
	if (fs.existsSync(`${files}/gate`))
		chunked(response, 3);
	else
		setTimeout(gate, 5, response);
}

function route(request, response) {
	const url = new URL(request.url.startsWith('/') ? 'http://api.test' + request.url : request.url,
		'http://api.test');
	const part = url.pathname.split('/').slice(1);
	if (url.pathname === '/v1/enrich')
		answer(response, 200, 'e'.repeat(256));
	else if (part[0] === 'v1' && part[1] === 'documents' && part[3] === 'extract')
		response.end('x'.repeat(512));
	else if (part[0] === 'v1' && part[1] === 'files')
		file(response, Number(part[2]));
	else if (part[0] === 'status')
		status(response, Number(part[1]));
	else if (part[0] === 'chunked')
		chunked(response, Number(part[1]));
	else if (part[0] === 'slow')
		setTimeout(answer, Number(url.searchParams.get('s')) * 1000, response, 200, 'ok\n');
	else if (part[0] === 'gate')
		gate(response);
	else if (part[0] === 'customer')
		response.setHeader('X-Customer', part[1]), answer(response, 200, 'ok\n');
	else if (part[0] === 'close')
		closeDelimited(response);
	else
		answer(response, 200, 'ok\n');
}

function closeDelimited(response) {
	response.useChunkedEncodingByDefault = false;
	response.shouldKeepAlive = false;
	response.removeHeader('Transfer-Encoding');
	response.write('bye\n');
	response.end();
}

function serve(request, response) {
	const socket = request.socket;
	let received, sent;
	response.prependListener('finish', () => {
		sent = growth(socket, 'bytesWritten');
	});
	response.on('close', () => {
		if (response.headersSent)
			note(socket, request, response.statusCode, received, sent);
	});
	if (request.url === '/early')
		response.writeEarlyHints({ link: '</a.css>; rel=preload' });
	request.on('end', () => {
		received = growth(socket, 'bytesRead');
		route(request, response);
	});
	request.resume();
}

function upgrade(request, socket, head) {
	socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
	socket.write(head);
	socket.on('data', (data) => socket.write(data));
	socket.on('end', () => socket.end());
	socket.on('error', () => socket.destroy());
	socket.on('close', () => note(socket, request, 101));
}

function refuse(error, socket) {
	if (!socket.writable || error.code === 'ECONNRESET')
		return socket.destroy();
	const code = BAD[error.code] || 400;
	socket.on('close', () => note(socket, null, code));
	socket.end(`HTTP/1.1 ${code} ${http.STATUS_CODES[code]}\r\nConnection: close\r\n\r\n`);
}

for (const port of ports.split(',').map(Number)) {
	const server = http.createServer({ connectionsCheckingInterval: 500 }, serve);
	server.keepAliveTimeout = idle * 1000;
	server.headersTimeout = idle * 1000;
	server.requestTimeout = idle * 1000;
	server.on('connection', (socket) => { socket.metered = { port }; });
	server.on('upgrade', upgrade);
	server.on('clientError', refuse);
	server.listen(port, '::', 65535);
}
process.on('SIGTERM', () => process.exit(0));
