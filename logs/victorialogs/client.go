package victorialogs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// maxBody is when a request's body of lines is sent and another begun, in
// bytes before compression.
const maxBody = 8 << 20

// maxAnswer bounds one line of an answer: MaxText as base64 and as a message
// that is all quotes, with the fields around, is below 300 KiB.
const maxAnswer = 1 << 20

// target is what one request can carry lines for.
type target struct {
	class  int
	tenant string
}

// insert hands the batches to VictoriaLogs.
func (s *Store) insert(ctx context.Context, batches []logs.Kept, stamp uint64) error {
	by := map[target][]*logs.Kept{}
	var targets []target
	for i := range batches {
		c, err := s.classFor(batches[i].Days)
		if err != nil {
			return err
		}
		t := target{c, batches[i].Origin.TenantID}
		if by[t] == nil {
			targets = append(targets, t)
		}
		by[t] = append(by[t], &batches[i])
	}
	for _, t := range targets {
		if err := s.insertInto(ctx, t, by[t], stamp); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) insertInto(ctx context.Context, t target, batches []*logs.Kept, stamp uint64) error {
	var body bytes.Buffer
	packed, err := gzip.NewWriterLevel(&body, gzip.BestSpeed)
	if err != nil {
		return err
	}
	plain := &counter{to: packed}
	lines := json.NewEncoder(plain)
	lines.SetEscapeHTML(false)
	send := func() error {
		if err := packed.Close(); err != nil {
			return err
		}
		err := s.post(ctx, t, body.Bytes())
		body.Reset()
		packed.Reset(&body)
		plain.n = 0
		return err
	}
	for _, k := range batches {
		for i := range k.Lines {
			if err := encode(lines, k, i, stamp); err != nil {
				return err
			}
			if plain.n >= maxBody {
				if err := send(); err != nil {
					return err
				}
			}
		}
	}
	if plain.n == 0 {
		return nil
	}
	return send()
}

type counter struct {
	to io.Writer
	n  int
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += len(b)
	return c.to.Write(b)
}

func (s *Store) post(ctx context.Context, t target, body []byte) error {
	address := s.classes[t.class].base.JoinPath("insert", "jsonline")
	address.RawQuery = url.Values{"_msg_field": {"_msg"}, "_time_field": {"_time"}, "_stream_fields": {streamFields}}.Encode()
	return s.do(ctx, address, t.tenant, http.Header{"Content-Type": {"application/stream+json"}, "Content-Encoding": {"gzip"}}, body, func(io.Reader) error { return nil })
}

// query runs LogsQL and hands on each line of the answer as it comes.
func (s *Store) query(ctx context.Context, t target, text string, each func(stored)) error {
	address := s.classes[t.class].base.JoinPath("select", "logsql", "query")
	body := url.Values{"query": {text}}.Encode()
	return s.do(ctx, address, t.tenant, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, []byte(body), func(answer io.Reader) error {
		in := bufio.NewScanner(answer)
		in.Buffer(make([]byte, 0, 64<<10), maxAnswer)
		for in.Scan() {
			if len(in.Bytes()) == 0 {
				continue
			}
			line, err := decode(in.Bytes())
			if err != nil {
				if in.Err() != nil {
					break // half a line, since the connection was cut
				}
				return &miosa.Error{Code: miosa.Internal, Message: "logs: VictoriaLogs answered what is no line of ours", Err: err}
			}
			if line.Origin.TenantID != t.tenant {
				return miosa.Errorf(miosa.Internal, "logs: VictoriaLogs answered a line of another tenant")
			}
			each(line)
		}
		if errors.Is(in.Err(), bufio.ErrTooLong) {
			return &miosa.Error{Code: miosa.Internal, Message: "logs: VictoriaLogs answered a line that is too long", Err: in.Err()}
		}
		return in.Err()
	})
}

// do posts a request and reads its answer with read, whose errors without a
// code are the connection's.
func (s *Store) do(ctx context.Context, address *url.URL, tenant string, header http.Header, body []byte, read func(io.Reader) error) error {
	bounded, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(bounded, http.MethodPost, address.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("logs: ask VictoriaLogs: %w", err)
	}
	request.Header = header
	account, project := account(tenant)
	request.Header.Set("AccountID", account)
	request.Header.Set("ProjectID", project)
	answer, err := s.client.Do(request)
	if err != nil {
		return passing(ctx, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return refused(answer)
	}
	if err := read(answer.Body); err != nil {
		if _, coded := errors.AsType[*miosa.Error](err); coded {
			return err
		}
		return passing(ctx, err)
	}
	// What is left of a short answer, so that the connection is used again; of
	// an answer to be read to its end, whether that end came.
	if _, err := io.CopyN(io.Discard, answer.Body, maxAnswer); err != nil && !errors.Is(err, io.EOF) {
		return passing(ctx, err)
	}
	return nil
}

// passing is a connection that failed: the caller's own doing, or to be tried
// again.
func passing(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &miosa.Error{Code: miosa.Unavailable, Message: "logs: VictoriaLogs cannot be reached", Err: err}
}

// refused is an answer that is none.
func refused(answer *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	code := miosa.Internal
	if answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= 500 {
		code = miosa.Unavailable
		// So it says when its disk is nearly full; nothing but time helps then.
		if strings.Contains(string(text), "read-only mode") {
			code = miosa.NoSpace
		}
	}
	return &miosa.Error{Code: code, Message: "logs: VictoriaLogs refused", Err: fmt.Errorf("status %d: %q", answer.StatusCode, text)}
}
