package cell

import "container/heap"

// queue gives back what waits for a number, the lowest first.
type queue []waiting

type waiting struct {
	until int64
	id    string
}

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].until < q[j].until }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(waiting)) }
func (q *queue) Pop() any {
	old := *q
	w := old[len(old)-1]
	old[len(old)-1] = waiting{}
	*q = old[:len(old)-1]
	return w
}

func (q *queue) wait(until int64, id string) { heap.Push(q, waiting{until, id}) }

// reached takes out the next one that waited for a number up to this.
func (q *queue) reached(number int64) (waiting, bool) {
	if len(*q) == 0 || (*q)[0].until > number {
		return waiting{}, false
	}
	return heap.Pop(q).(waiting), true
}
