package cli

import "testing"

func TestWhichSideOfACopyIsAnInstances(t *testing.T) {
	for argument, want := range map[string][2]string{
		"shop:/tmp/a":    {"shop", "/tmp/a"},
		"ri_01:a:b":      {"ri_01", "a:b"},
		"shop:":          {"shop", ""},
		"./shop:/tmp/a":  {},
		"/tmp/shop:/a":   {},
		":/tmp":          {},
		"plain":          {},
		"dir/with:colon": {},
	} {
		subject, path, ok := remote(argument)
		if ok != (want[0] != "") || ok && (subject != want[0] || path != want[1]) {
			t.Errorf("%s: %q %q %v", argument, subject, path, ok)
		}
	}
}
