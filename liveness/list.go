package liveness

// list is a queue that its members can leave at once, wherever they stand.
type list struct {
	front, back *node
	n           int
}

// node is a host's place in at most one list.
type node struct {
	host       *host
	in         *list
	prev, next *node
}

// leave takes the node out of its list, if it is in one.
func (d *node) leave() {
	l := d.in
	if l == nil {
		return
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		l.front = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		l.back = d.prev
	}
	l.n--
	d.in, d.prev, d.next = nil, nil, nil
}

// push puts the node at the back, from wherever it was.
func (l *list) push(d *node) {
	d.leave()
	d.in, d.prev = l, l.back
	if l.back != nil {
		l.back.next = d
	} else {
		l.front = d
	}
	l.back = d
	l.n++
}

// pushFront puts the node at the front, from wherever it was.
func (l *list) pushFront(d *node) {
	d.leave()
	d.in, d.next = l, l.front
	if l.front != nil {
		l.front.prev = d
	} else {
		l.back = d
	}
	l.front = d
	l.n++
}

// first is the host at the front; nil: there is none.
func (l *list) first() *host {
	if l.front == nil {
		return nil
	}
	return l.front.host
}
