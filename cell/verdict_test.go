package cell_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

// A host that answers again while its silence is being written down is alive on record
// all the same, whatever is looked at in between.
func TestAVerdictThatIsWrittenLate(t *testing.T) {
	now := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	m := cell.NewMachine(cell.Config{Hosts: func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }})
	record := map[string]miosa.Host{}
	var late []cell.SaveHost // under way
	revision := int64(1)
	var feed func(ev cell.Event)
	answer := func(save cell.SaveHost) {
		done := cell.HostSaved{Host: save.Host.ID}
		if save.Host.ID != "" {
			revision++
			record[save.Host.ID] = save.Host
			feed(cell.Changed{Revision: revision, Put: []any{save.Host}})
		}
		feed(done)
	}
	slow := false
	feed = func(ev cell.Event) {
		for _, effect := range m.Handle(now, ev) {
			if save, ok := effect.(cell.SaveHost); ok {
				if slow && save.Host.ID != "" {
					late = append(late, save)
					continue
				}
				answer(save)
			}
		}
	}
	beat := func(d time.Duration, hosts ...string) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(time.Second)
			for _, id := range hosts {
				feed(cell.Beat{Host: id, Session: 1, Seq: now.Unix()})
			}
			feed(cell.Tick{})
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		record[id] = miosa.Host{ID: id, Name: id, Liveness: miosa.Alive, Schedulable: true}
	}
	feed(cell.Loaded{Revision: revision, Nouns: []any{record["a"], record["b"], record["c"]}})
	beat(time.Minute, "a", "b", "c")
	slow = true
	for range 60 { // until it is judged silent
		if beat(time.Second, "b", "c"); len(late) > 0 {
			break
		}
	}
	if len(late) != 1 || late[0].Host.Liveness != miosa.Suspect {
		t.Fatalf("%d writes are under way", len(late))
	}
	beat(2*time.Second, "a", "b", "c")
	// Its record is looked at for another reason, and says what it said before.
	revision++
	feed(cell.Changed{Revision: revision, Put: []any{record["a"]}})
	slow = false
	answer(late[0])
	beat(5*time.Second, "a", "b", "c")
	if is := record["a"].Liveness; is != miosa.Alive {
		t.Errorf("it answers, and is %s on record", is)
	}
}
