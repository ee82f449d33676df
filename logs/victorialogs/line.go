package victorialogs

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/miosa/miosa/logs"
)

// fields is a line as VictoriaLogs has it: strings all. A field that is ""
// is the same to it as one that is missing.
type fields struct {
	Time       string `json:"_time"`
	Message    string `json:"_msg"`
	Tenant     string `json:"tenant_id"`
	Deployment string `json:"deployment_id,omitempty"`
	Service    string `json:"service_id,omitempty"`
	Task       string `json:"task_id,omitempty"`
	Instance   string `json:"instance_id"`
	Version    string `json:"version_id,omitempty"`
	Host       string `json:"host_id,omitempty"`
	Workspace  string `json:"workspace_id,omitempty"`
	Stream     string `json:"stream"`
	Epoch      string `json:"epoch"`
	Seq        string `json:"seq"`
	// Order sorts the lines of one instant; see order.
	Order string `json:"order"`
	// Stamp is of the Append that brought it; see purged.
	Stamp string `json:"stamp"`
	Days  string `json:"days"`
	// Raw is "=" and the text in base64 when it is no message that VictoriaLogs
	// would keep as it is: _msg then has it made readable.
	Raw     string `json:"raw,omitempty"`
	Partial string `json:"partial,omitempty"` // "1"
	Lost    string `json:"lost,omitempty"`
}

// streamFields tell VictoriaLogs what to store together. An attempt at a task is
// an instance of its own, so that a task needs no place among them.
const streamFields = "deployment_id,service_id,instance_id"

// timeFormat has all nine digits, so that a bound is an instant: LogsQL takes
// a shorter one for all of the time that begins like it.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

func stamped(t time.Time) string { return t.UTC().Format(timeFormat) }

// order is a line's place within its instant as a text of the letters a to p
// alone, two to a byte. VictoriaLogs compares what looks like numbers as such,
// and digits within text too; letters it compares as they are. The zero byte
// ends the instance's ID: no ID holds one, so a shorter one comes first.
func order(instanceID string, p logs.Position) string {
	key := make([]byte, 0, len(instanceID)+17)
	key = append(append(key, instanceID...), 0)
	key = binary.BigEndian.AppendUint64(key, p.Epoch)
	key = binary.BigEndian.AppendUint64(key, p.Seq)
	out := make([]byte, 0, 2*len(key))
	for _, b := range key {
		out = append(out, 'a'+b>>4, 'a'+b&15)
	}
	return string(out)
}

// beyondOrder is above every order, belowOrder below.
const (
	belowOrder  = "a"
	beyondOrder = "q"
)

// account is where VictoriaLogs keeps a tenant's lines apart. Two tenants may
// share one by chance: tenant_id tells them apart in every query.
func account(tenantID string) (account, project string) {
	sum := sha256.Sum256([]byte(tenantID))
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32(sum[:4])), 10), strconv.FormatUint(uint64(binary.BigEndian.Uint32(sum[4:8])), 10)
}

// readable is the text as a message, and whether the two are the same. A
// message is valid UTF-8, not empty, and has no control character, which JSON
// makes six bytes of: VictoriaLogs drops lines of more than 256 KiB. What is
// not readable is "?" there, a byte for a byte, so that a search of ASCII
// finds what it would find in the text.
func readable(text []byte) (string, bool) {
	if len(text) == 0 {
		return "?", false
	}
	odd := func(r rune, size int) bool {
		return r == utf8.RuneError && size <= 1 || r < 0x20 && r != '\t' || r == 0x7f
	}
	clean := true
	for i := 0; i < len(text) && clean; {
		r, size := utf8.DecodeRune(text[i:])
		clean = !odd(r, size)
		i += size
	}
	if clean {
		return string(text), true
	}
	var b strings.Builder
	b.Grow(len(text))
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if odd(r, size) {
			b.WriteByte('?')
		} else {
			b.Write(text[i : i+size])
		}
		i += size
	}
	return b.String(), false
}

// encode appends the batch's line i as a JSON line.
func encode(out *json.Encoder, k *logs.Kept, i int, stamp uint64) error {
	l, o := &k.Lines[i], &k.Origin
	p := logs.Position{Epoch: k.Epoch, Seq: k.First + uint64(i)}
	f := fields{
		Time: stamped(l.Time), Tenant: o.TenantID, Deployment: o.DeploymentID, Service: o.ServiceID, Task: o.TaskID, Instance: o.InstanceID,
		Version: o.VersionID, Host: o.HostID, Workspace: o.WorkspaceID, Stream: string(l.Stream),
		Epoch: strconv.FormatUint(p.Epoch, 10), Seq: strconv.FormatUint(p.Seq, 10), Order: order(o.InstanceID, p),
		Stamp: strconv.FormatUint(stamp, 10), Days: strconv.Itoa(k.Days),
	}
	var same bool
	if f.Message, same = readable(l.Text); !same {
		f.Raw = "=" + base64.StdEncoding.EncodeToString(l.Text)
	}
	if l.Partial {
		f.Partial = "1"
	}
	if l.Lost > 0 {
		f.Lost = strconv.FormatUint(l.Lost, 10)
	}
	return out.Encode(f)
}

// stored is a line that was read, with what decides whether it is shown.
type stored struct {
	logs.Entry
	stamp uint64
	days  int
}

func decode(line []byte) (stored, error) {
	var f fields
	if err := json.Unmarshal(line, &f); err != nil {
		return stored{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, f.Time)
	if err != nil {
		return stored{}, err
	}
	s := stored{Entry: logs.Entry{
		Line: logs.Line{Time: at.UTC(), Stream: logs.Stream(f.Stream), Text: []byte(f.Message), Partial: f.Partial == "1"},
		Origin: logs.Origin{
			TenantID: f.Tenant, DeploymentID: f.Deployment, ServiceID: f.Service, InstanceID: f.Instance,
			VersionID: f.Version, HostID: f.Host, WorkspaceID: f.Workspace, TaskID: f.Task,
		},
	}}
	if raw, is := strings.CutPrefix(f.Raw, "="); is {
		if s.Text, err = base64.StdEncoding.DecodeString(raw); err != nil {
			return stored{}, fmt.Errorf("field raw: %w", err)
		}
	}
	for _, n := range []struct {
		name, text string
		to         *uint64
	}{{"epoch", f.Epoch, &s.Position.Epoch}, {"seq", f.Seq, &s.Position.Seq}, {"stamp", f.Stamp, &s.stamp}, {"lost", f.Lost, &s.Lost}} {
		if n.text == "" && n.name == "lost" {
			continue
		}
		if *n.to, err = strconv.ParseUint(n.text, 10, 64); err != nil {
			return stored{}, fmt.Errorf("field %s: %w", n.name, err)
		}
	}
	if s.days, err = strconv.Atoi(f.Days); err != nil {
		return stored{}, fmt.Errorf("field days: %w", err)
	}
	return s, nil
}

// own is the batch with lines of its own, as they are kept: in UTC, to the
// microsecond.
func own(k logs.Kept) logs.Kept {
	lines := make([]logs.Line, len(k.Lines))
	for i, l := range k.Lines {
		l.Time, l.Text = l.Time.UTC().Truncate(time.Microsecond), bytes.Clone(l.Text)
		lines[i] = l
	}
	k.Lines = lines
	return k
}
