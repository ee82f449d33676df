package api

import (
	"cmp"
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
)

const (
	defaultPageSize = 20
	maxPageSize     = 100
)

// rows is a whole list, in order, whose items are only rendered when they
// are on the page asked for.
type rows[Out any] struct {
	keys   []string // of the items: unique, sorted
	rising bool     // keys rise; otherwise they fall (newest first)
	whole  bool     // all on one page unless a size is asked for; for short lists
	render func(i int) (Out, error)
}

// newest makes rows of nouns that are sorted by ID, newest first.
func newest[N, Out any](nouns []N, id func(N) string, render func(N) (Out, error)) rows[Out] {
	return rowsOf(nouns, false, id, render)
}

func rowsOf[N, Out any](nouns []N, rising bool, key func(N) string, render func(N) (Out, error)) rows[Out] {
	keys := make([]string, len(nouns))
	for i, n := range nouns {
		keys[i] = key(n)
	}
	return rows[Out]{keys: keys, rising: rising, render: func(i int) (Out, error) { return render(nouns[i]) }}
}

// paginate cuts the page asked for out of all: by page and page_size, or by
// limit and cursor. A cursor stays true when items come and go around it.
func paginate[Out any](c *call, all rows[Out]) (any, error) {
	q := c.r.URL.Query()
	page, size, err := pageOf(q)
	if err != nil {
		return nil, err
	}
	if all.whole && !q.Has("page_size") && !q.Has("limit") {
		size = max(len(all.keys), 1)
	}
	// A page far behind the end must not overflow.
	start := min(page-1, len(all.keys)) * size
	if cursor := q.Get("cursor"); cursor != "" {
		after, err := parseCursor(cursor)
		if err != nil {
			return nil, err
		}
		start = all.behind(after)
		page = start/size + 1
	}
	start = min(start, len(all.keys))
	end := min(start+size, len(all.keys))
	out := resource.Listing[Out]{
		Data: make([]Out, 0, end-start),
		Page: resource.Page{Page: page, PageSize: size, Total: len(all.keys)},
	}
	for i := start; i < end; i++ {
		v, err := all.render(i)
		if miosa.CodeOf(err) == miosa.NotFound {
			continue // it went away between listing and rendering
		}
		if err != nil {
			return nil, err
		}
		out.Data = append(out.Data, v)
	}
	if end < len(all.keys) && end > start {
		out.Page.NextCursor = new(makeCursor(all.keys[end-1]))
	}
	return out, nil
}

// pageOf reads which page is asked for, and of how many items.
func pageOf(q url.Values) (page, size int, err error) {
	if size, err = number(q, "page_size", defaultPageSize); err == nil && q.Has("limit") {
		size, err = number(q, "limit", defaultPageSize)
	}
	if err == nil {
		page, err = number(q, "page", 1)
	}
	return page, min(size, maxPageSize), err
}

// behind is the index of the first item behind a key, itself there or not.
func (r rows[Out]) behind(key string) int {
	for i, k := range r.keys {
		if r.rising && k > key || !r.rising && k < key {
			return i
		}
	}
	return len(r.keys)
}

// number reads a positive query parameter.
func number(q url.Values, name string, absent int) (int, error) {
	v := q.Get(name)
	if v == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, invalidField(name, "must be a whole number from 1")
	}
	return n, nil
}

// The "c" makes a cursor of a later form recognisable.
func makeCursor(key string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("c" + key))
}

func parseCursor(cursor string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	key, ok := strings.CutPrefix(string(raw), "c")
	if err != nil || !ok || len(key) > 300 {
		return "", invalidField("cursor", "is not one that this list gave out")
	}
	return key, nil
}

// filter are the attribution and state filters that every list honours.
type filter struct {
	state, project              string
	workspace, user, extProject string
}

func (c *call) filter() filter {
	q := c.r.URL.Query()
	return filter{
		state: q.Get("state"), project: q.Get("project_id"), workspace: q.Get("external_workspace_id"),
		user: q.Get("external_user_id"), extProject: q.Get("external_project_id"),
	}
}

// passes reports whether something of that state, project and attribution is asked for.
func (f filter) passes(state, project string, a miosa.Attribution) bool {
	return f.stateIs(state) &&
		(f.project == "" || f.project == project) &&
		(f.workspace == "" || f.workspace == a.WorkspaceID) &&
		(f.user == "" || f.user == a.UserID) &&
		(f.extProject == "" || f.extProject == a.ProjectID)
}

// stateIs takes several states, by commas.
func (f filter) stateIs(state string) bool {
	if f.state == "" {
		return true
	}
	for s := range strings.SplitSeq(f.state, ",") {
		if s == state {
			return true
		}
	}
	return false
}

// sortByID sorts keys newest first.
func sortByID(keys []miosa.APIKey) {
	slices.SortFunc(keys, func(a, b miosa.APIKey) int { return cmp.Compare(b.ID, a.ID) })
}
