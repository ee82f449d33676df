'use strict';
// A chat room over WebSockets, on Node's standard library alone.
//
// GET /         the page
// GET /healthz  200 while serving, 503 once it was asked to stop
// GET /ws       WebSocket: each text message goes to everybody
//
// Environment: PORT (8080; 0 is any free one). On SIGTERM every socket is closed with 1001
// (going away), which tells a client to connect again.

const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'; // RFC 6455, section 1.3
const MAX_MESSAGE = 4096; // bytes
const MAX_QUEUED = 1 << 20; // bytes waiting for one slow reader before it is dropped
const HISTORY = 50; // messages shown to who joins
const CLOSE_LIMIT_MS = 3000; // for clients to answer our close frame
const OP = { text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

const page = readFileSync(path.join(__dirname, 'page.html'));
const clients = new Set();
const history = [];
let stopping = false;

const server = http.createServer((request, response) => {
  if (request.url === '/healthz') {
    response.writeHead(stopping ? 503 : 200, { 'Content-Type': 'text/plain' });
    response.end(stopping ? 'stopping\n' : 'ok\n');
    return;
  }
  console.log(`${request.method} ${request.url}`);
  if (request.url === '/') {
    response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8', 'Cache-Control': 'no-store' });
    response.end(page);
    return;
  }
  response.writeHead(404, { 'Content-Type': 'text/plain' });
  response.end('not here\n');
});

server.on('upgrade', (request, socket) => {
  socket.on('error', () => socket.destroy());
  const key = request.headers['sec-websocket-key'];
  const fits = request.url === '/ws' && key && request.headers['sec-websocket-version'] === '13';
  if (!fits || stopping) {
    socket.end(`HTTP/1.1 ${fits ? '503 Service Unavailable' : '400 Bad Request'}\r\nConnection: close\r\n\r\n`);
    return;
  }
  const accept = createHash('sha1').update(key + GUID).digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
  socket.setNoDelay(true);
  const client = new Client(socket);
  clients.add(client);
  for (const line of history) client.send(OP.text, line);
  announce(`${clients.size} here`);
});

// Client is one WebSocket: it cuts the byte stream into frames and answers
// the control ones.
class Client {
  constructor(socket) {
    this.socket = socket;
    this.buffered = Buffer.alloc(0);
    this.parts = []; // of a fragmented message
    this.partsSize = 0;
    this.closing = false;
    socket.on('data', (bytes) => this.receive(bytes));
    socket.on('close', () => {
      clients.delete(this);
      if (!stopping) announce(`${clients.size} here`);
    });
  }

  receive(bytes) {
    this.buffered = Buffer.concat([this.buffered, bytes]);
    for (;;) {
      const frame = cut(this.buffered);
      if (frame === null) return;
      if (frame.error) return this.close(frame.error);
      this.buffered = this.buffered.subarray(frame.length);
      this.handle(frame);
      if (this.socket.destroyed) return;
    }
  }

  handle({ final, opcode, payload }) {
    switch (opcode) {
      case OP.ping:
        return this.send(OP.pong, payload);
      case OP.pong:
        return undefined;
      case OP.close:
        if (!this.closing) this.send(OP.close, payload.subarray(0, 2));
        return this.socket.end();
      case OP.binary:
        return this.close(1003);
      case OP.text:
        if (this.parts.length > 0) return this.close(1002);
        break;
      case 0: // the continuation of a text
        if (this.parts.length === 0) return this.close(1002);
        break;
      default:
        return this.close(1002);
    }
    this.parts.push(payload);
    this.partsSize += payload.length;
    if (this.partsSize > MAX_MESSAGE) return this.close(1009);
    if (!final) return undefined;
    const text = Buffer.concat(this.parts).toString('utf8');
    this.parts = [];
    this.partsSize = 0;
    return said(text);
  }

  send(opcode, data) {
    if (this.socket.destroyed || this.closing) return;
    if (this.socket.writableLength > MAX_QUEUED) {
      this.socket.destroy(); // it does not read; nobody else shall pay for that
      return;
    }
    this.socket.write(frame(opcode, Buffer.from(data)));
  }

  close(code) {
    if (this.closing) return;
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.send(OP.close, payload);
    this.closing = true;
    if (code !== 1001) this.socket.end();
  }
}

// cut takes the first frame off bytes: null when it is not all there yet.
function cut(bytes) {
  if (bytes.length < 2) return null;
  const opcode = bytes[0] & 0x0f;
  const final = (bytes[0] & 0x80) !== 0;
  const masked = (bytes[1] & 0x80) !== 0;
  let size = bytes[1] & 0x7f;
  let at = 2;
  if (!masked || (bytes[0] & 0x70) !== 0) return { error: 1002 }; // a client must mask, and we agreed on no extension
  if (opcode >= 8 && (size > 125 || !final)) return { error: 1002 };
  if (size === 126) {
    if (bytes.length < 4) return null;
    size = bytes.readUInt16BE(2);
    at = 4;
  } else if (size === 127) {
    return { error: 1009 }; // 64 KiB and more: far past MAX_MESSAGE
  }
  if (size > MAX_MESSAGE) return { error: 1009 };
  if (bytes.length < at + 4 + size) return null;
  const mask = bytes.subarray(at, at + 4);
  const payload = Buffer.from(bytes.subarray(at + 4, at + 4 + size));
  for (let i = 0; i < payload.length; i++) payload[i] ^= mask[i & 3];
  return { final, opcode, payload, length: at + 4 + size };
}

// frame makes an unfragmented frame; a server does not mask.
function frame(opcode, payload) {
  let head;
  if (payload.length < 126) {
    head = Buffer.from([0x80 | opcode, payload.length]);
  } else {
    head = Buffer.alloc(4);
    head[0] = 0x80 | opcode;
    head[1] = 126;
    head.writeUInt16BE(payload.length, 2);
  }
  return Buffer.concat([head, payload]);
}

function said(text) {
  const line = JSON.stringify({ kind: 'said', text, at: new Date().toISOString() });
  console.log(`message of ${text.length} characters to ${clients.size} clients`);
  history.push(line);
  if (history.length > HISTORY) history.shift();
  for (const client of clients) client.send(OP.text, line);
}

function announce(text) {
  const line = JSON.stringify({ kind: 'notice', text });
  for (const client of clients) client.send(OP.text, line);
}

process.on('SIGTERM', () => {
  if (stopping) return;
  stopping = true;
  console.log(`asked to stop: closing ${clients.size} websockets`);
  for (const client of clients) client.close(1001);
  server.close(() => console.log('stopped'));
  server.closeIdleConnections();
  setTimeout(() => {
    for (const client of clients) client.socket.destroy();
  }, CLOSE_LIMIT_MS).unref();
});

server.listen(Number(process.env.PORT || 8080), () =>
  console.log(`node ${process.version} listening on port ${server.address().port}`));
