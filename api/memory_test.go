package api

import (
	"bytes"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// What a document becomes is never more than its share.
func TestDocumentsCostNoMoreThanTheirShare(t *testing.T) {
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, item := range []string{`{}`, `[]`, `0`, `""`, `{"":0}`, `{"a":[]}`, `[{}]`, `{"a":{"b":{"c":"` + strings.Repeat("d", 99) + `"}}}`, `"` + strings.Repeat("x", 5000) + `"`, `1234567890123`, `"a","b":"c"`} {
		raw := []byte(`{"a":[` + strings.Repeat(item+",", maxBody/(len(item)+1)-10) + `0]}`)
		if strings.Contains(item, ",") { // members of one object
			raw = []byte(`{"a":{"k":` + strings.Repeat(`"","`+strings.Repeat("k", 6)+`":`, maxBody/20) + `0}}`)
		}
		before := live()
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%.40s: %v", raw, err)
		}
		if took, cost := live()-before, documentCost(raw); took > cost {
			t.Errorf("%.20s: takes %d MB, its share is %d MB", item, took>>20, cost>>20)
		}
		runtime.KeepAlive(v)
		runtime.KeepAlive(raw)
	}
}

func TestLargeDocumentsWaitForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{memory: ration.New(0, 1<<20)}
		other, err := s.memory.Take(t.Context(), ration.Terms{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Name string `json:"name"`
		}
		small, large := []byte(`{"name":"small"}`), []byte(`{"name":"`+strings.Repeat("x", freely)+`"}`)
		if err := s.decode(t.Context(), small, &v); err != nil || v.Name != "small" {
			t.Errorf("a small one: %v", err)
		}
		began := time.Now()
		if err := s.decode(t.Context(), large, &v); miosa.CodeOf(err) != miosa.Limited || time.Since(began) != documentPatience {
			t.Errorf("a large one after %v: %v", time.Since(began), err)
		}
		time.AfterFunc(time.Second, other.Release)
		if err := s.decode(t.Context(), large, &v); err != nil || len(v.Name) != freely {
			t.Errorf("when there is room: %v", err)
		}
		// What would be more than there ever is gets all there is.
		if err := s.decode(t.Context(), []byte(`{"name":"`+strings.Repeat("[{", 100_000)+`"}`), &v); err != nil {
			t.Errorf("one that looks dear: %v", err)
		}
		if now, _ := s.memory.Held(); now != 0 {
			t.Errorf("%d bytes held in the end", now)
		}
	})
}
