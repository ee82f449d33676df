package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/miosa/miosa/secret"
)

func TestAValueDoesNotShow(t *testing.T) {
	const plain = "hunter2"
	v := secret.NewValue(plain)
	type open struct {
		Name  string
		Value secret.Value
	}
	type closed struct {
		name    string
		value   secret.Value
		pointer *secret.Value
		list    []secret.Value
	}
	shown := map[string]any{
		"value": v, "pointer": &v, "list": []secret.Value{v}, "map": map[string]secret.Value{"k": v},
		"key": map[secret.Value]int{v: 1}, "field": open{"n", v}, "hidden field": closed{"n", v, &v, []secret.Value{v}},
		"pointer to struct": &closed{"n", v, &v, []secret.Value{v}}, "error": fmt.Errorf("wrong %v", v),
	}
	for name, x := range shown {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T", "% x"} {
			hidden(t, name+" "+verb, fmt.Sprintf(verb, x))
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "attr", x)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "attr", x)
		hidden(t, name+" slog", log.String())
		b, err := json.Marshal(x)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		hidden(t, name+" json", string(b))
	}
	if got := fmt.Sprint(v); got != "••••" {
		t.Errorf("printed %s", got)
	}
	if v.Reveal() != plain || !v.Equal(secret.NewValue(plain)) || v.Equal(secret.Value{}) || (secret.Value{}).Reveal() != "" {
		t.Error("the value is lost")
	}
}

// hidden checks for the plain text and its usual encodings.
func hidden(t *testing.T, name, printed string) {
	t.Helper()
	for _, leak := range []string{"hunter2", "68756e74657232", "68 75 6e", "aHVudGVyMg", "104 117"} {
		if strings.Contains(strings.ToLower(printed), strings.ToLower(leak)) {
			t.Errorf("%s shows it: %s", name, printed)
		}
	}
}
