// Package edge is the router: it takes requests in by HTTP/1.1, HTTP/2 and
// upgraded connections, and brings each to an instance that the route table
// names for its host.
//
// Who may touch what:
//
//   - A request finds its host name's entry (256 shards, a read lock each) and
//     loads the pool from the entry's atomic pointer. It takes no other lock
//     but that of the one backend it picks, while it takes a connection from
//     there and gives it back.
//   - The loop in Router.Run is the only one to change entries, pools and the
//     list of backends. It feeds the machine, which is package balance's, and
//     carries out what it decides.
//     A flip is one pointer store; no listener and no connection is touched.
//   - A request counts itself in at its backend before it looks a second time
//     at the entry's pool, and counts itself out again when that has changed
//     (see entry.acquire). Hence, once the loop has stored a pool and then
//     reads a count of zero at a backend that the pool no longer holds,
//     nothing will reach that backend any more.
//   - Reports to control leave by a goroutine of their own that sends the
//     newest and skips the rest; the access log likewise. Neither can hold up
//     a request.
package edge
