// Package victorialogs keeps logs in VictoriaLogs, over plain HTTP: JSON lines
// in, LogsQL out. There is one VictoriaLogs for each class of retention, since
// each has one -retentionPeriod for all that it holds.
//
// VictoriaLogs has neither an order of arrival, nor a key to drop doubles by,
// nor a way to delete that every release has. All three are kept here, in a
// small journal in the state directory: the last position of each instance,
// the newest hour of arrivals, what was logged in each hour, and what was
// purged. The journal is written after VictoriaLogs took the lines, so nothing
// is acknowledged that is not there. A crash or a lost answer between the two
// leaves lines that nobody was told of; when they are sent again, VictoriaLogs
// has them twice, and reads drop the double by its place.
//
// What was inserted is found about a second later only. The newest lines are
// therefore held in memory too (Config.Recent), and reads merge them in.
//
// Start each VictoriaLogs with -retentionPeriod of its class. What lies
// outside of that, or further ahead than -futureRetention, it drops without a
// word: an hour of wrong clocks on the hosts is nothing to it, a week is. And
// it answers before its own fsync, which follows within seconds: a VictoriaLogs
// that loses power loses as much, a limit of this adapter that no client can
// lift.
//
// The state directory is worth a back-up, yet not the logs' only key: without
// it, what VictoriaLogs holds is read still, but purged deployments come back
// until they expire, usage begins at nothing, and followers must begin anew,
// since marks do.
package victorialogs

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// Config says where lines go.
type Config struct {
	// Endpoints are the VictoriaLogs by the days that each keeps lines for (1
	// to 3650): its base URL, http or https. A batch goes to the one with the
	// fewest days that are enough; if none is, Append is miosa.Invalid, because
	// lines are never kept shorter than promised.
	Endpoints map[int]string
	// Client speaks to them; nil: one of its own.
	Client *http.Client
	// State is the directory of the journal; it is made when absent, and is
	// one process's alone.
	State string
	// Timeout bounds one request; 0: 30 s.
	Timeout time.Duration
	// Recent bounds the newest lines that are held in memory, in bytes; 0: 32
	// MiB; negative: none. It should hold what arrives in two seconds.
	Recent int
	// Page is how many lines one query asks for; 0: 1000. A read holds one
	// page of each endpoint in memory.
	Page int
	// Now is the clock by which arrivals grow old; nil: time.Now.
	Now func() time.Time
}

// keepOrder is how long the order of arrivals is known; the port promises an
// hour.
const keepOrder = 65 * time.Minute

const day = 24 * time.Hour

// class is one VictoriaLogs.
type class struct {
	days int
	base *url.URL
}

// Store is a logs.Store. Close it when done.
type Store struct {
	config  Config
	client  *http.Client
	classes []class // by days, ascending

	// writing serialises what writes the journal: appends, purges, expiries.
	// It is held while VictoriaLogs takes lines.
	writing sync.Mutex
	journal *journal

	// mu guards all below. Only a holder of writing changes it.
	mu     sync.Mutex
	state  *state
	recent recent
	told   uint64 // the stamp of the last Append that succeeded
}

var _ logs.Store = (*Store)(nil)

// Open checks the configuration and loads the state. It asks nothing of
// VictoriaLogs: the store opens while that is away.
func Open(config Config) (*Store, error) {
	if config.Timeout <= 0 {
		config.Timeout = 30 * time.Second
	}
	if config.Recent == 0 {
		config.Recent = 32 << 20
	}
	if config.Page <= 0 {
		config.Page = 1000
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Store{config: config, client: config.Client, recent: recent{limit: max(0, config.Recent)}}
	if s.client == nil {
		s.client = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		}}
	}
	for days, address := range config.Endpoints {
		base, err := url.Parse(address)
		if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" {
			return nil, miosa.Errorf(miosa.Invalid, "logs: the endpoint for %d days is %q: want http://host:port", days, address)
		}
		if days < 1 || days > 3650 {
			return nil, miosa.Errorf(miosa.Invalid, "logs: an endpoint for %d days: want 1 to 3650", days)
		}
		s.classes = append(s.classes, class{days, base})
	}
	if len(s.classes) == 0 {
		return nil, miosa.Errorf(miosa.Invalid, "logs: no VictoriaLogs endpoint is configured")
	}
	slices.SortFunc(s.classes, func(a, b class) int { return a.days - b.days })
	if config.State == "" {
		return nil, miosa.Errorf(miosa.Invalid, "logs: no state directory is configured")
	}
	var err error
	if s.journal, s.state, err = openJournal(config.State); err != nil {
		return nil, err
	}
	s.state.forget(config.Now().Add(-keepOrder))
	s.told = (s.state.generation + 1) << counterBits
	if err := s.journal.write(record{Generation: s.state.generation + 1}, s.state); err != nil {
		s.journal.close()
		return nil, err
	}
	return s, nil
}

// Close releases the state directory. Nothing may use the store any more.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.journal.close()
}

// classFor is the smallest class that keeps lines for the days.
func (s *Store) classFor(days int) (int, error) {
	for i, c := range s.classes {
		if c.days >= days {
			return i, nil
		}
	}
	return 0, miosa.Errorf(miosa.Invalid, "logs: no endpoint keeps lines for %d days; the longest keeps %d", days, s.classes[len(s.classes)-1].days)
}

// commit writes the record and makes it so. The caller holds s.writing.
func (s *Store) commit(r record) error {
	if err := s.journal.append(r); err != nil {
		return err
	}
	s.mu.Lock()
	s.state.apply(r)
	s.state.forget(s.config.Now().Add(-keepOrder))
	s.mu.Unlock()
	return s.journal.compact(s.state)
}

// Append implements logs.Store. Appends follow each other: a caller with many
// batches gives them at once.
func (s *Store) Append(ctx context.Context, batches []logs.Kept) ([]logs.Arrival, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	fresh, err := s.fresh(batches)
	stamp := s.state.stamp()
	mark := s.state.mark
	s.mu.Unlock()
	if err != nil || len(fresh) == 0 {
		return nil, err
	}
	if err := s.insert(ctx, fresh, stamp); err != nil {
		return nil, err
	}
	r := record{}
	usage := map[hour]logs.Usage{}
	arrivals := make([]logs.Arrival, len(fresh))
	for i, k := range fresh {
		mark++
		arrivals[i] = logs.Arrival{Mark: mark, Batch: k.Batch}
		k = own(k)
		fresh[i] = k
		r.Arrivals = append(r.Arrivals, arrival{
			Mark: mark, Stamp: stamp, At: s.config.Now().UnixNano(), Origin: k.Origin, Epoch: k.Epoch, First: k.First, Count: uint64(len(k.Lines)),
			From: k.Lines[0].Time.UnixNano(), To: k.Lines[len(k.Lines)-1].Time.UnixNano(), Days: k.Days,
		})
		for _, l := range k.Lines {
			h := hour{k.Origin.TenantID, l.Time.Truncate(time.Hour).Unix()}
			u := usage[h]
			usage[h] = logs.Usage{Lines: u.Lines + 1, Bytes: u.Bytes + uint64(len(l.Text))}
		}
	}
	for h, u := range usage {
		r.Usage = append(r.Usage, used{h.tenant, h.begin, u.Lines, u.Bytes})
	}
	if err := s.commit(r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.told = stamp
	for i, k := range fresh {
		s.recent.add(arrivals[i].Mark, stamp, k)
	}
	s.mu.Unlock()
	return arrivals, nil
}

// fresh is what is not known of the batches. The caller holds s.mu.
func (s *Store) fresh(batches []logs.Kept) ([]logs.Kept, error) {
	var fresh []logs.Kept
	held := map[owner]logs.Position{}
	for _, k := range batches {
		if _, err := s.classFor(k.Days); err != nil {
			return nil, err
		}
		if k.Days < 1 || k.First < 1 || k.Origin.TenantID == "" || k.Origin.InstanceID == "" {
			return nil, miosa.Errorf(miosa.Invalid, "logs: a batch of instance %q of tenant %q from line %d, kept %d days", k.Origin.InstanceID, k.Origin.TenantID, k.First, k.Days)
		}
		for _, l := range k.Lines {
			if len(l.Text) > logs.MaxText {
				return nil, miosa.Errorf(miosa.Invalid, "logs: a line of %d bytes; the limit is %d", len(l.Text), logs.MaxText)
			}
		}
		who := owner{k.Origin.TenantID, k.Origin.InstanceID}
		last, seen := held[who]
		if !seen {
			last = s.state.held(who)
		}
		if k.Epoch < last.Epoch || len(k.Lines) == 0 {
			continue
		}
		if k.Epoch == last.Epoch && k.First <= last.Seq {
			known := last.Seq - k.First + 1
			if known >= uint64(len(k.Lines)) {
				continue
			}
			k.First, k.Lines = k.First+known, k.Lines[known:]
		}
		held[who] = logs.Position{Epoch: k.Epoch, Seq: k.First + uint64(len(k.Lines)) - 1}
		fresh = append(fresh, k)
	}
	return fresh, nil
}

// Held implements logs.Store.
func (s *Store) Held(ctx context.Context, tenantID, instanceID string) (logs.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.held(owner{tenantID, instanceID}), ctx.Err()
}

// Last implements logs.Store.
func (s *Store) Last(ctx context.Context) (logs.Mark, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.mark, ctx.Err()
}

// Expire implements logs.Store. VictoriaLogs drops by itself what its
// retention is over for; here the state is trimmed, and what had fewer days
// than its class is hidden from reads.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	back := time.Duration(s.state.expired - now.UnixNano())
	s.mu.Unlock()
	if back >= 0 && back < logs.SetBack {
		return nil
	}
	if err := s.commit(record{Expired: now.UnixNano(), SetBack: back >= logs.SetBack, Longest: s.classes[len(s.classes)-1].days}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent.keep(func(k *kept) bool { return s.state.shows(k.stamp, &k.Origin, k.Lines[len(k.Lines)-1].Time, k.Days) })
	return nil
}

// Purge implements logs.Store: from now on no read shows what the deployment
// logged until here, also what a failed Append may have left behind. The bytes
// lie in VictoriaLogs until its retention is over: not every release can
// delete, and those that can do not do so at once.
func (s *Store) Purge(ctx context.Context, tenantID, deploymentID string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	stamp := s.state.stamp()
	s.mu.Unlock()
	if err := s.commit(record{Purged: []purged{{tenantID, deploymentID, stamp, s.config.Now().UnixNano()}}}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent.keep(func(k *kept) bool { return k.Origin.TenantID != tenantID || k.Origin.DeploymentID != deploymentID })
	return nil
}

// Usage implements logs.Store, from the journal's counters: what was purged or
// has expired was logged all the same.
func (s *Store) Usage(ctx context.Context, tenantID string, since, until time.Time) (logs.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum logs.Usage
	for begin, u := range s.state.usage[tenantID] {
		if t := time.Unix(begin, 0); !t.Before(since) && (until.IsZero() || t.Before(until)) {
			sum.Lines, sum.Bytes = sum.Lines+u.Lines, sum.Bytes+u.Bytes
		}
	}
	return sum, ctx.Err()
}
