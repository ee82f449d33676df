package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// state is what must survive us to take an instance up again. It holds no
// secret: the boot spec stays sealed in a file of its own.
type state struct {
	Instance    miosa.Instance // without its boot spec
	Observation miosa.Observation
	VM          vmm.Handle
	Tail        tailDump // in a file of its own
}

// stateRecord is a state's shape on disk. Rules for changing it: fields are only
// added, never renamed, retyped or given another meaning; what an older binary
// must not read raises stateSchema, and readState has to read the older ones too.
// Instance and observation are records as stores have them, with their own schemas
// and the same rules. What a newer binary adds is not carried over: control tells
// all of an assignment anew, and what it does not know no older binary needs.
type stateRecord struct {
	Schema      int             `json:"schema"`
	Instance    json.RawMessage `json:"instance"`
	Observation json.RawMessage `json:"observation"`
	VM          vmm.Handle      `json:"vm"`
}

// stateSchema is 2; 1 had the domain's own structs in place of records.
const stateSchema = 2

func (d *disks) writeState(s state) error {
	s.Instance.BootSpec = nil
	s.Instance.Observed = miosa.Observation{}
	instance, err := store.Instances.Encode(s.Instance)
	if err != nil {
		return err
	}
	observation, err := store.Observations.Encode(s.Observation)
	if err != nil {
		return err
	}
	b, err := json.Marshal(stateRecord{Schema: stateSchema, Instance: instance, Observation: observation, VM: s.VM})
	if err != nil {
		return err
	}
	return d.write(s.Instance.ID, stateFile, b, false)
}

func readState(b []byte) (s state, err error) {
	var r stateRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return s, err
	}
	s.VM = r.VM
	switch {
	case r.Schema > stateSchema:
		return s, store.ErrNewerSchema
	case r.Schema < 2:
		old := struct {
			*miosa.Instance
			Words []miosa.Notice // the name of Notices then
		}{Instance: &s.Instance}
		err = errors.Join(json.Unmarshal(r.Instance, &old), json.Unmarshal(r.Observation, &s.Observation))
		s.Instance.Notices = old.Words
		return s, err
	}
	if s.Instance, err = store.Instances.Decode(r.Instance); err != nil {
		return s, err
	}
	s.Observation, err = store.Observations.Decode(r.Observation)
	return s, err
}

// states reads every instance's state. A file that cannot be read is left
// out and said: control assigns the instance anew.
func (d *disks) states(log *slog.Logger) ([]state, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("read the agent's directory: %w", err)
	}
	var out []state
	for _, e := range entries {
		if miosa.IDPrefix(e.Name()) != miosa.PrefixInstance {
			continue
		}
		if err := disk.Sweep(filepath.Join(d.dir, e.Name())); err != nil {
			return nil, fmt.Errorf("sweep the directory of %s: %w", e.Name(), err)
		}
		b, err := os.ReadFile(d.path(e.Name(), stateFile))
		var s state
		if err == nil {
			s, err = readState(b)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read the state of %s: %w", e.Name(), err)
		}
		if err != nil || s.Instance.ID != e.Name() {
			log.Warn("state of an instance cannot be read; it is begun anew", "instance", e.Name(), "err", err)
			if err := d.remove(e.Name()); err != nil {
				return nil, err
			}
			continue
		}
		if b, err := os.ReadFile(d.path(e.Name(), tailFile)); err == nil {
			_ = json.Unmarshal(b, &s.Tail) // a broken tail is an empty one
		}
		out = append(out, s)
	}
	return out, nil
}

// paused writes down that the platform stopped the VM: the next start boots
// the instance at once and counts no failure.
func (d *disks) paused(s state) error {
	s.VM = vmm.Handle{}
	s.Observation.State = miosa.Pending
	s.Observation.Seq++
	s.Observation.NextRestartAt = s.Observation.ReportedAt
	if err := d.removeDisk(s.Instance.ID); err != nil {
		return err
	}
	return d.writeState(s)
}

// ended writes down that an instance is over: the next start tells control.
func (d *disks) ended(s state) error {
	s.VM = vmm.Handle{}
	if err := d.removeDisk(s.Instance.ID); err != nil {
		return err
	}
	return d.writeState(s)
}

// endedWithHost is the end of an attempt that is stopped as its host goes down. How
// its command ended is known where its guest had said so, or had been asked to.
func endedWithHost(now time.Time, s state, exit *guest.Exit, lines []string) miosa.Observation {
	o := s.Observation
	asked := o.State == miosa.Stopping
	o.State, o.StoppedAt, o.ReportedAt = miosa.Stopped, now, now
	o.Seq++
	switch {
	case exit != nil && !exit.Stopped:
		o.Failure = exitFailure(now, exit, s.Instance, lines)
		if o.Failure.Kind == miosa.FailureExit && exit.Code == 0 {
			o.Failure.Kind = miosa.FailureCompleted
		} else if o.Failure.Kind != miosa.FailureLimit {
			o.State = miosa.Failed
		}
	case !asked:
		o.Failure = miosa.Failure{Kind: miosa.FailureVM, Message: "its host went down", At: now, LastLines: lines}
	}
	return o
}
