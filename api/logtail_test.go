package api_test

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/logs"
)

// chance is what a fuzzer decides, then zeros.
type chance struct{ data []byte }

func (c *chance) upTo(n int) int {
	if len(c.data) == 0 {
		return 0
	}
	v := int(c.data[0]) % n
	c.data = c.data[1:]
	return v
}

// busy is a store that gets more lines whenever it is asked for something,
// and whose stream ends when there is nothing new.
type busy struct {
	*apitest.Logs
	chance *chance
	seq    [4]uint64
	last   [4]int // second of each instance's last line
	epoch  [4]uint64
	left   int // lines that it may still get
	asked  bool
	first  logs.Mark // the first mark that was asked for since asked was false
}

func (b *busy) write() {
	i := b.chance.upTo(4)
	batch := logs.Batch{Origin: logs.Origin{TenantID: "t", DeploymentID: "d", InstanceID: fmt.Sprintf("ri_0000000000000000000000000%d", i)}}
	if b.seq[i] == 0 || b.chance.upTo(8) == 7 {
		b.epoch[i]++
		b.seq[i] = 0
	}
	batch.Epoch, batch.First = b.epoch[i], b.seq[i]+1
	for range min(b.left, 1+b.chance.upTo(4)) {
		// Instances are late by themselves: their clocks and hosts differ.
		b.last[i] += b.chance.upTo(3) * (i + 1)
		stream := logs.Stdout
		if b.chance.upTo(2) == 1 {
			stream = logs.Stderr
		}
		batch.Lines = append(batch.Lines, logs.Line{Time: time.Unix(int64(1000+b.last[i]), 0).UTC(), Stream: stream, Text: []byte("x")})
		b.seq[i]++
		b.left--
	}
	if len(batch.Lines) > 0 {
		b.Append(batch)
	}
}

func (b *busy) maybe() {
	for b.left > 0 && b.chance.upTo(2) == 1 {
		b.write()
	}
}

func (b *busy) Last(ctx context.Context) (logs.Mark, error) {
	b.maybe()
	m, err := b.Logs.Last(ctx)
	if !b.asked {
		b.asked, b.first = true, m
	}
	b.maybe()
	return m, err
}

func (b *busy) Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error] {
	b.maybe()
	found := b.Logs.Read(ctx, q)
	b.maybe()
	return found
}

func (b *busy) Follow(_ context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	return func(yield func(logs.Arrival, error) bool) {
		for {
			last, _ := b.Logs.Last(context.Background())
			for a, err := range b.Arrivals(after, scope) {
				last = max(last, a.Mark)
				if !yield(a, err) {
					return
				}
			}
			after = max(after, last)
			b.maybe()
			if last, _ := b.Logs.Last(context.Background()); last <= after {
				return
			}
		}
	}
}

func origin(p logs.Position, instance string) string {
	return fmt.Sprint(instance, p.Epoch, ":", p.Seq)
}

// FuzzResume cuts a stream wherever it likes, while lines of several instances
// come late and out of order: nothing is missing, nothing comes twice. Cursors
// and IDs that nobody gave out do no harm.
func FuzzResume(f *testing.F) {
	f.Add("", []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	f.Add("ZgEA", []byte("a longer script, of which each character decides something, lest nothing happens in here at all"))
	for seed := range 150 {
		script := make([]byte, 600)
		x := uint32(seed + 1)
		for i := range script {
			x = x*1664525 + 1013904223
			script[i] = byte(x >> 24)
		}
		f.Add("", script)
	}
	f.Fuzz(func(t *testing.T, id string, script []byte) {
		if again, ok := api.RewriteTailMark(id); ok {
			if twice, ok := api.RewriteTailMark(again); !ok || twice != again {
				t.Fatalf("%q is read, but what it means is not", id)
			}
		}
		if again, ok := api.RewriteCursor(id); ok {
			if twice, ok := api.RewriteCursor(again); !ok || twice != again {
				t.Fatalf("%q is read, but what it means is not", id)
			}
		}
		c := &chance{script}
		b := &busy{Logs: apitest.NewLogs(), chance: c, left: 80}
		for range c.upTo(12) {
			b.write()
		}
		q := logs.Query{Scope: logs.Scope{TenantID: "t"}}
		if c.upTo(2) == 1 {
			q.Stream = logs.Stderr
		}
		newest := c.upTo(2) * (1 + c.upTo(10))
		if len(id) > 0 {
			// Anything may come; it ends.
			_ = api.Tail(t.Context(), b.Logs, q, 1, 3, id, func(logs.Entry, string) bool { return false })
		}

		got, last := map[string]int{}, ""
		var began logs.Mark
		for cut := true; cut; {
			cut = false
			b.asked = false
			fresh := last == ""
			err := api.Tail(t.Context(), b, q, newest, 1+c.upTo(5), last, func(e logs.Entry, id string) bool {
				last = id
				if e.Position.Seq > 0 {
					got[origin(e.Position, e.Origin.InstanceID)]++
				}
				b.maybe()
				cut = c.upTo(8) == 1
				return !cut
			})
			if err != nil {
				t.Fatal(err)
			}
			if fresh {
				began = b.first
			}
		}
		for key, n := range got {
			if n != 1 {
				t.Errorf("%s came %d times", key, n)
			}
		}
		for a := range b.Arrivals(0, q.Scope) {
			if newest > 0 && a.Mark <= began {
				continue // perhaps not among the last ones
			}
			for i := range a.Batch.Lines {
				key := origin(logs.Position{Epoch: a.Batch.Epoch, Seq: a.Batch.First + uint64(i)}, a.Batch.Origin.InstanceID)
				if got[key] == 0 {
					t.Errorf("%s of arrival %d is missing", key, a.Mark)
				}
			}
		}
	})
}

// slow is a store whose search takes its time after the first line.
type slow struct {
	*apitest.Logs
	got chan struct{}
}

func (s slow) Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error] {
	return func(yield func(logs.Entry, error) bool) {
		n := 0
		for e, err := range s.Logs.Read(ctx, q) {
			if n++; n == 2 {
				select {
				case <-s.got:
				case <-ctx.Done():
					yield(logs.Entry{}, ctx.Err())
					return
				}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// TestBacklogIsGivenAsItIsFound: the first lines are there while the search
// goes on.
func TestBacklogIsGivenAsItIsFound(t *testing.T) {
	s := slow{apitest.NewLogs(), make(chan struct{})}
	s.Write(logs.Origin{TenantID: "t", DeploymentID: "d", InstanceID: apitest.ID(t, "ri")}, time.Unix(1000, 0), "one", "two", "three")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var all []string
	err := api.Tail(ctx, s, logs.Query{Scope: logs.Scope{TenantID: "t"}}, 0, 1000, "", func(e logs.Entry, _ string) bool {
		if e.Text == nil {
			return false // the backlog is over
		}
		if all = append(all, string(e.Text)); len(all) == 1 {
			close(s.got)
		}
		return true
	})
	if err != nil || fmt.Sprint(all) != "[one two three]" {
		t.Errorf("%v, %v", all, err)
	}
}
