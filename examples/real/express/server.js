const express = require('express')
const { WebSocketServer } = require('ws')

const app = express()
app.get('/', (req, res) => res.send('Hello from Express\n'))
const server = app.listen(process.env.PORT)
new WebSocketServer({ server, path: '/echo' }).on('connection', (ws) => ws.on('message', (m) => ws.send(`echo ${m}`)))
process.on('SIGTERM', () => server.close(() => process.exit(0)))
