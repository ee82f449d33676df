package guest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSplitCommand(t *testing.T) {
	for _, c := range []struct {
		in    string
		want  []string
		shell bool
		fails bool
	}{
		{in: "/app/server", want: []string{"/app/server"}},
		{in: "  node  server.js --port 8080 ", want: []string{"node", "server.js", "--port", "8080"}},
		{in: `echo 'a b' "c d" e\ f`, want: []string{"echo", "a b", "c d", "e f"}},
		{in: `echo 'it''s' "say \"hi\"" "a\b"`, want: []string{"echo", "its", `say "hi"`, `a\b`}},
		{in: `echo '' ""`, want: []string{"echo", "", ""}},
		{in: `echo '$HOME | x' "a;b"`, want: []string{"echo", "$HOME | x", "a;b"}},
		{in: "java -Dkey=value -jar a.jar", want: []string{"java", "-Dkey=value", "-jar", "a.jar"}},
		{in: "echo a#b x~y {", shell: true},
		{in: "echo a#b x~y", want: []string{"echo", "a#b", "x~y"}},
		{in: "server --addr :$PORT", shell: true},
		{in: `server --addr ":$PORT"`, shell: true},
		{in: "PORT=80 server", shell: true},
		{in: "a=b=c server", shell: true},
		{in: "2a=b", want: []string{"2a=b"}},
		{in: "cat a | grep b", shell: true},
		{in: "cd /app && ./run", shell: true},
		{in: "cd /app", shell: true},
		{in: "exec server", shell: true},
		{in: "a; b", shell: true},
		{in: "ls *.txt", want: []string{"ls", "*.txt"}, shell: true},
		{in: "serve [::]:80", want: []string{"serve", "[::]:80"}, shell: true},
		{in: "ls ~/x", shell: true},
		{in: "a\nb", shell: true},
		{in: "a \\\n b", want: []string{"a", "b"}},
		{in: "", fails: true},
		{in: "   ", fails: true},
		{in: "echo 'x", fails: true},
		{in: `echo "x`, fails: true},
		{in: `echo x\`, fails: true},
	} {
		got, shell, err := splitCommand(c.in)
		if shell != c.shell || (err != nil) != c.fails || !slices.Equal(got, c.want) {
			t.Errorf("splitCommand(%q) = %q, shell %v, %v; want %q, shell %v, failure %v", c.in, got, shell, err, c.want, c.shell, c.fails)
		}
	}
}

// Where it does not ask for a shell, a shell splits the command alike.
func TestSplitCommandAgreesWithTheShell(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		in := "x " + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", " ", "'", `"`, `\`, "=", "#", "~", "$", "b c", "-", "%"}), 0, 12).Draw(t, "parts"), "")
		argv, shell, err := splitCommand(in)
		if shell || err != nil {
			return
		}
		out, err := exec.Command("sh", "-c", `x() { for a do printf '<%s>' "$a"; done; }; `+in).CombinedOutput()
		var want strings.Builder
		for _, a := range argv[1:] {
			want.WriteString("<" + a + ">")
		}
		if err != nil || string(out) != want.String() {
			t.Fatalf("%q: split into %s, the shell says %s (%v)", in, want.String(), out, err)
		}
	})
}
