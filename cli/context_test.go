package cli_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// A context that leads to the router, or to anything else that is not the API,
// says so.
func TestAContextThatIsNotTheAPI(t *testing.T) {
	s := newShell(t)
	asked := 0
	for name, c := range map[string]struct {
		status      int
		media, body string
		words       string
	}{
		"the router":      {404, "application/json", `{"error":{"code":"unknown_host","message":"There is nothing at this address.","request_id":"req_1"},"message":"There is nothing at this address."}`, "is the router"},
		"the router's":    {400, "application/json", `{"error":{"code":"bad_host","message":"x","request_id":"req_1"},"message":"x"}`, "is the router"},
		"an app's page":   {200, "text/html; charset=utf-8", "<!doctype html><title>Shop</title>", "is not MIOSA's API (it answered 200 OK, text/html)"},
		"an app's text":   {200, "text/plain", "hello", "is not MIOSA's API"},
		"an app's JSON":   {200, "application/json", `{"hello": "world"}`, "is not MIOSA's API"},
		"an app's list":   {200, "application/json", `[]`, "is not MIOSA's API"},
		"nothing of ours": {404, "text/plain; charset=utf-8", "404 page not found", "is not MIOSA's API (it answered 404 Not Found, text/plain)"},
		"a login":         {401, "text/html", "<form>", "is not MIOSA's API"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", c.media)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer server.Close()
			raw, err := json.Marshal(map[string]string{"api_url": server.URL, "api_key": s.p.Key})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.context, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"deployments", "ls"}, {"ps", "x"}, {"env", "set", "x", "A=b"}, {"logs", "dep_00000000000000000000000000"}, {"logs", "-f", "dep_00000000000000000000000000"}, {"usage"}} {
				asked = 0
				var out bytes.Buffer
				code := s.run(t.Context(), &out, args...)
				if code != 5 || !strings.Contains(out.String(), server.URL) || !strings.Contains(out.String(), c.words) || asked != 1 {
					t.Errorf("%v: exit %d after %d requests: %s", args, code, asked, &out)
				}
			}
		})
	}
}
