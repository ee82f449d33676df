package pebble

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

const (
	kindAccount = 'a'
	kindMeta    = 'm'
	kindRow     = 'r'
)

func metaKey(name string) []byte { return append([]byte{kindMeta}, name...) }

func accountKey(instance string) []byte { return append([]byte{kindAccount}, instance...) }

// hourKey is before all rows of the hour.
func hourKey(h metering.Hour) []byte {
	return binary.BigEndian.AppendUint32([]byte{kindRow}, uint32(min(max(h, 0), math.MaxUint32))) //nolint:gosec // bounded
}

// tenantKey is before all rows of a tenant in the hour. IDs end with a byte
// that none holds, below all that they may hold.
func tenantKey(h metering.Hour, tenant string) []byte {
	return append(append(hourKey(h), tenant...), 0)
}

// rowKey ends with the attribution: any bytes, each with its length before it.
func rowKey(h metering.Hour, s usage.Subject) []byte {
	k := tenantKey(h, s.TenantID)
	k = append(append(k, s.DeploymentID...), 0)
	k = append(append(k, s.ServiceID...), 0)
	for _, v := range []string{s.WorkspaceID, s.UserID, s.ProjectID} {
		k = append(binary.AppendUvarint(k, uint64(len(v))), v...)
	}
	return k
}

var errBroken = errors.New("a record of the usage store is broken")

func parseRow(key, value []byte) (r usage.Row, err error) {
	if len(key) < 5 {
		return r, errBroken
	}
	r.Hour = metering.Hour(binary.BigEndian.Uint32(key[1:]))
	rest := key[5:]
	for _, to := range []*string{&r.TenantID, &r.DeploymentID, &r.ServiceID} {
		id, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return r, errBroken
		}
		*to, rest = string(id), after
	}
	for _, to := range []*string{&r.WorkspaceID, &r.UserID, &r.ProjectID} {
		if *to, rest, err = cutText(rest); err != nil {
			return r, err
		}
	}
	r.Amount, r.Name, err = parseAmount(value)
	return r, err
}

func cutText(b []byte) (text string, rest []byte, err error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || uint64(len(b)-size) < n {
		return "", nil, errBroken
	}
	end := size + int(n) //nolint:gosec // within b
	return string(b[size:end]), b[end:], nil
}

// amounts are the numbers of a row's value, in order. New ones go to the end:
// older rows have nothing of them.
func amounts(a *metering.Amount) []*uint64 {
	return []*uint64{
		&a.RunMS, &a.VCPUMS, &a.MemoryMBMS, &a.DiskMBMS, &a.SentBytes, &a.ReceivedBytes, &a.LogLines, &a.LogBytes, &a.StorageByteHours,
	}
}

// marshalAmount is the name, how many numbers follow, and they.
func marshalAmount(a metering.Amount, name string) []byte {
	v := append(binary.AppendUvarint(nil, uint64(len(name))), name...)
	all := amounts(&a)
	v = binary.AppendUvarint(v, uint64(len(all)))
	for _, n := range all {
		v = binary.AppendUvarint(v, *n)
	}
	return v
}

func parseAmount(v []byte) (a metering.Amount, name string, err error) {
	name, v, err = cutText(v)
	if err != nil {
		return a, "", err
	}
	count, size := binary.Uvarint(v)
	all := amounts(&a)
	if size <= 0 || count > uint64(len(all)) {
		return a, "", errBroken
	}
	v = v[size:]
	for _, n := range all[:count] {
		if *n, size = binary.Uvarint(v); size <= 0 {
			return a, "", errBroken
		}
		v = v[size:]
	}
	return a, name, nil
}

// account is an account's value. Its key has the instance.
type account struct {
	Host       string         `json:"host"`
	Tenant     string         `json:"tenant"`
	Deployment string         `json:"deployment"`
	Service    string         `json:"service,omitempty"`
	Workspace  string         `json:"workspace,omitempty"`
	User       string         `json:"user,omitempty"`
	Project    string         `json:"project,omitempty"`
	Name       string         `json:"name,omitempty"`
	VCPUs      int            `json:"vcpus"`
	MemoryMB   int            `json:"memory_mb"`
	DiskMB     int            `json:"disk_mb"`
	Since      int64          `json:"since"`
	Epoch      uint64         `json:"epoch"`
	Settled    map[int]uint64 `json:"settled"` // by their place in amounts
	Before     map[int]uint64 `json:"before,omitempty"`
	Hour       metering.Hour  `json:"hour"`
	Final      bool           `json:"final,omitempty"`
	LogEpoch   uint64         `json:"log_epoch,omitempty"`
	LogSeq     uint64         `json:"log_seq,omitempty"`
	Seen       metering.Hour  `json:"seen"`
}

func sparse(a metering.Amount) map[int]uint64 {
	m := map[int]uint64{}
	for i, n := range amounts(&a) {
		if *n != 0 {
			m[i] = *n
		}
	}
	return m
}

func dense(m map[int]uint64) (a metering.Amount, err error) {
	all := amounts(&a)
	for i, n := range m {
		if i < 0 || i >= len(all) {
			return a, errBroken
		}
		*all[i] = n
	}
	return a, nil
}

func marshalAccount(a *usage.Account) ([]byte, error) {
	return json.Marshal(account{
		a.HostID, a.TenantID, a.DeploymentID, a.ServiceID, a.WorkspaceID, a.UserID, a.ProjectID, a.Name, a.Size.VCPUs, a.Size.MemoryMB, a.Size.DiskMB,
		a.Since, a.Epoch, sparse(a.Settled), sparse(a.Before), a.Hour, a.Final, a.LogEpoch, a.LogSeq, a.Seen,
	})
}

func parseAccount(instance string, value []byte) (usage.Account, error) {
	var r account
	if err := json.Unmarshal(value, &r); err != nil {
		return usage.Account{}, errors.Join(errBroken, err)
	}
	settled, err := dense(r.Settled)
	before, err2 := dense(r.Before)
	return usage.Account{
		InstanceID: instance, HostID: r.Host, Name: r.Name, Since: r.Since, LogEpoch: r.LogEpoch, LogSeq: r.LogSeq, Seen: r.Seen,
		Subject: usage.Subject{
			TenantID: r.Tenant, DeploymentID: r.Deployment, ServiceID: r.Service,
			Attribution: miosa.Attribution{WorkspaceID: r.Workspace, UserID: r.User, ProjectID: r.Project},
		},
		Size:    metering.Size{VCPUs: r.VCPUs, MemoryMB: r.MemoryMB, DiskMB: r.DiskMB},
		Account: metering.Account{Epoch: r.Epoch, Settled: settled, Before: before, Hour: r.Hour, Final: r.Final},
	}, errors.Join(err, err2)
}
