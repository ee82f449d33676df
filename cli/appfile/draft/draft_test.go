package draft_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/miosa/miosa/cli/appfile"
	"github.com/miosa/miosa/cli/appfile/draft"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the example anew")

// files is a folder with those files in it.
func files(pairs ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for n := 0; n < len(pairs); n += 2 {
		out[pairs[n]] = &fstest.MapFile{Data: []byte(pairs[n+1])}
	}
	return out
}

// archive is a tar of those files.
func archive(pairs ...string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for n := 0; n < len(pairs); n += 2 {
		if err := w.WriteHeader(&tar.Header{Name: pairs[n], Mode: 0o644, Size: int64(len(pairs[n+1])), Typeflag: tar.TypeReg}); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(pairs[n+1])); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

const config = `{"architecture":"amd64","os":"linux","config":{"User":"app","Entrypoint":["/entry.sh"],"Cmd":["serve","--all"],"ExposedPorts":{"9000/tcp":{},"9001/udp":{}},"StopSignal":"SIGINT","Healthcheck":{"Test":["CMD","/check"]}}}`

var (
	saved = archive("abc/layer.tar", "x", "blobs/sha256/c0", config, "manifest.json", `[{"Config":"blobs/sha256/c0","RepoTags":["shop:1"],"Layers":[]}]`)
	oci   = archive("oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", `{"manifests":[{"digest":"sha256:i0"}]}`,
		"blobs/sha256/i0", `{"manifests":[{"digest":"sha256:w0","platform":{"os":"windows"}},{"digest":"sha256:m0","platform":{"os":"linux"}}]}`,
		"blobs/sha256/m0", `{"config":{"digest":"sha256:c0"},"layers":[]}`, "blobs/sha256/c0", config)
)

var apps = map[string]struct {
	dir  fstest.MapFS
	want []string // of each service: name, type, command, port, signal, health path
}{
	"nothing":              {files("README", "x"), []string{"web web   "}},
	"Procfile":             {files("Procfile", "# two\nweb: gunicorn app:app --bind :$PORT\nrelease: ./migrate\nclock_1: python clock.py\nworker: celery -A app worker\n", "requirements.txt", "gunicorn"), []string{"web web gunicorn app:app --bind :$PORT  ", "clock-1 worker python clock.py  ", "worker worker celery -A app worker  "}},
	"docker save":          {files("shop.tar", saved), []string{"web web  9000 SIGINT"}},
	"docker save, gzipped": {files("shop.tar.gz", gzipped(saved)), []string{"web web  9000 SIGINT"}},
	"OCI archive":          {files("shop.oci", oci), []string{"web web  9000 SIGINT"}},
	"Procfile and image":   {files("Procfile", "web: /run\njobs: /jobs\n", "shop.tar", saved), []string{"web web /run 9000 SIGINT", "jobs worker /jobs  SIGINT"}},
	"a root file system":   {files("root.tar", archive("etc/passwd", "root", "app/index.json", "{}")), []string{"web web   "}},
	"Dockerfile":           {files("Dockerfile", "FROM a\nEXPOSE 1\nfrom b\nexpose 8000/tcp\nSTOPSIGNAL 3\nCMD [\"x\"]\n"), []string{"web web  8000 SIGQUIT"}},
	"npm start":            {files("package.json", `{"scripts":{"start":"next start","worker":"x"}}`), []string{"web web npm start  ", "worker worker npm run worker  "}},
	"node alone":           {files("package.json", `{"scripts":{"start":"node dist/main.js --all"}}`), []string{"web web node dist/main.js --all  "}},
	"node with a shell":    {files("package.json", `{"scripts":{"start":"node a.js && node b.js"}}`), []string{"web web npm start  "}},
	"gunicorn":             {files("requirements.txt", "Flask==3.0\ngunicorn>=22\n", "wsgi.py", "app = 1"), []string{"web web gunicorn --bind 0.0.0.0:$PORT wsgi:app  "}},
	"Django":               {files("pyproject.toml", "dependencies = [\"Django\", \"gunicorn\"]", "manage.py", "", "shop/wsgi.py", ""), []string{"web web gunicorn --bind 0.0.0.0:$PORT shop.wsgi  "}},
	"FastAPI":              {files("requirements.txt", "fastapi[standard]\r\ncelery\r\n", "main.py", ""), []string{"web web uvicorn --host 0.0.0.0 --port $PORT main:app  ", "worker worker celery -A main worker  "}},
	"Sinatra":              {files("Gemfile", "gem 'sinatra'\ngem \"puma\"\n"), []string{"web web bundle exec puma --bind tcp://0.0.0.0:$PORT  "}},
	"Rails":                {files("Gemfile", "gem \"rails\"\ngem \"puma\"\ngem \"sidekiq\"\n", "config/puma.rb", ""), []string{"web web bundle exec puma -C config/puma.rb  /up", "worker worker bundle exec sidekiq  "}},
	"PHP":                  {files("composer.json", "{}", "public/index.php", "<?php"), []string{"web web php -S 0.0.0.0:$PORT -t public  "}},
	"Spring Boot":          {files("pom.xml", "<a>spring-boot-starter-actuator</a>", "target/shop-1.0-sources.jar", "", "target/shop-1.0.jar", ""), []string{"web web java -XX:MaxRAMPercentage=75 -jar shop-1.0.jar  /actuator/health"}},
	"a jar":                {files("app.jar", "PK"), []string{"web web java -XX:MaxRAMPercentage=75 -jar app.jar  "}},
	"Go":                   {files("go.mod", "module example.com/shop/v2\n", "main.go", ""), []string{"web web /app/shop  "}},
	"Go commands":          {files("go.mod", "module example.com/shop\n", "cmd/serve/main.go", ""), []string{"web web /app/serve  "}},
}

// TestLook: what is found in an app's folder, and that what is written of it is
// read again as that.
func TestLook(t *testing.T) {
	for name, c := range apps {
		t.Run(name, func(t *testing.T) {
			d := draft.Look(c.dir, "My Shop!")
			f, err := appfile.Parse("miosa.toml", d.Text())
			if err != nil {
				t.Fatalf("%v\n%s", err, d.Text())
			}
			var got []string
			for _, name := range f.Order {
				s := f.Services[name].Publish(name)
				kind, port, path := s.Type, "", ""
				if kind == "" {
					kind = "web"
				}
				if s.Port != nil {
					port = fmt.Sprint(*s.Port)
				}
				if s.HealthCheck != nil && s.HealthCheck.Path != nil {
					path = *s.HealthCheck.Path
				}
				got = append(got, strings.Join([]string{name, kind, s.RunCommand, strings.TrimSpace(port + " " + s.StopSignal.Value + " " + path)}, " "))
			}
			for n := range c.want {
				c.want[n] = strings.Join(strings.Fields(c.want[n]), " ")
			}
			for n := range got {
				got[n] = strings.Join(strings.Fields(got[n]), " ")
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) || f.Name != "my-shop" {
				t.Errorf("%s: found\n%q, not\n%q", f.Name, got, c.want)
			}
		})
	}
}

// TestText is the whole of one, which a person reads.
func TestText(t *testing.T) {
	text := draft.Look(files("Procfile", "web: gunicorn shop.wsgi --bind :$PORT\nworker: python -c \"print('x')\"\nrelease: ./migrate\n",
		".env.example", "DATABASE_URL=\nexport API_TOKEN=\nLOG_LEVEL=\"info\"\nPORT=8000\n"), "shop").Text()
	if *update {
		if err := os.WriteFile("testdata/miosa.toml", text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/miosa.toml")
	if err != nil || string(want) != string(text) {
		t.Errorf("%v; run with -update and look at the difference\n%s", err, text)
	}
}

// TestWhateverIsThereIsWrittenWell: no file in a folder makes one that is not
// read again.
func TestWhateverIsThereIsWrittenWell(t *testing.T) {
	names := []string{"Procfile", "Dockerfile", "package.json", "requirements.txt", "Gemfile", "go.mod", ".env.example", "pom.xml", "composer.json", "shop.tar", "shop.oci", "x'\n\".jar", "manage.py", "\"/wsgi.py", "cmd/\"\\/main.go"}
	parts := []string{"web:", "a-b_c: ", " ", "\n", "\"", "\\", "'", "\"\"\"", "#", "=", "X", "x=", "EXPOSE ", "99999", "80", "CMD ", "[\"", "\"]", "USER ", "\x00", "\x1b[31m", "ü\u2028", "FROM ", "HEALTHCHECK ", "{\"scripts\":{\"start\":\"node \\u0007\\n\"}}", "gunicorn", "gem 'puma'", "module ", saved[:600], "$PORT", "STOPSIGNAL ", "9999"}
	rapid.Check(t, func(t *rapid.T) {
		dir := fstest.MapFS{}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 6, rapid.ID[string]).Draw(t, "names") {
			if strings.ContainsAny(name, "\n") {
				continue
			}
			dir[name] = &fstest.MapFile{Data: []byte(strings.Join(rapid.SliceOfN(rapid.SampledFrom(parts), 0, 20).Draw(t, name), ""))}
		}
		text := draft.Look(dir, rapid.String().Draw(t, "folder")).Text()
		if _, err := appfile.Parse("miosa.toml", text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	})
}
