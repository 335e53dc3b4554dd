// SPDX-License-Identifier: Apache-2.0
// Node's parser as a filter: a line asks, a line answers.
//
//	Q <hex>			requests
//	R <kinds> <hex>		responses; kinds: a digit for each request they answer (1: HEAD, 2: CONNECT)
//
// The answer: messages, then what stopped it:
//	<head_end>,<end>,<method or ->,<status>,<major>.<minor>,<hex name>=<hex value>&...,<hex url>
//	;... error,<name>,<offset>
'use strict';
process.noDeprecation = true;
const { HTTPParser, methods, allMethods } = process.binding('http_parser');
const names = allMethods || methods;
const lenient = (HTTPParser.kLenientKeepAlive | 0) | (HTTPParser.kLenientDataAfterClose | 0);
const hex = (text) => Buffer.from(text, 'latin1').toString('hex');

function read(type, kinds, data) {
	const parser = new HTTPParser();
	const out = [];
	let at = 0, finals = 0, headers = [], url = '', stop = '';
	// What follows a request with `close` is for the responses to decide.
	parser.initialize(type, {}, 1 << 20, type === HTTPParser.REQUEST ? lenient : 0);
	parser[HTTPParser.kOnHeaders | 0] = (more, u) => {
		headers.push(...more);
		url += u;
	};
	parser[HTTPParser.kOnHeadersComplete | 0] = (major, minor, more, method, u, status) => {
		headers.push(...(more || []));
		const pairs = [];
		for (let i = 0; i < headers.length; i += 2)
			pairs.push(`${hex(headers[i])}=${hex(headers[i + 1])}`);
		const name = type === HTTPParser.REQUEST ? names[method] : '-';
		out.push({ head: at + 1, end: 0, text: `${name},${status | 0},${major}.${minor},` +
			`${pairs.join('&')},${hex(url + (u || ''))}` });
		headers = [];
		url = '';
		if (type === HTTPParser.REQUEST)
			return 0;
		if (status === 101) {
			stop = 'upgraded';
			return 2;
		}
		if (status < 200)
			return 0;
		return kinds[finals++] === '1' ? 1 : 0;
	};
	parser[HTTPParser.kOnMessageComplete | 0] = () => {
		out[out.length - 1].end = at + 1;
		headers = [];	// trailers
		url = '';
	};
	for (; at < data.length && !stop; at++) {
		const r = parser.execute(data.subarray(at, at + 1));
		if (typeof r !== 'number') {
			stop = r.code || 'error';
			break;
		}
	}
	return out.map((m) => `${m.head},${m.end},${m.text}`).join(';') + ` ${stop || '-'},${at}`;
}

process.stdout.write(`${process.versions.llhttp}\n`);
let rest = '';
process.stdin.setEncoding('latin1');
process.stdin.on('data', (text) => {
	const lines = (rest + text).split('\n');
	rest = lines.pop();
	let answer = '';
	for (const line of lines) {
		const words = line.split(' ');
		answer += words[0] === 'Q'
			? read(HTTPParser.REQUEST, '', Buffer.from(words[1], 'hex'))
			: read(HTTPParser.RESPONSE, words[1], Buffer.from(words[2], 'hex'));
		answer += '\n';
	}
	process.stdout.write(answer);
});
