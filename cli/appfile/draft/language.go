package draft

import (
	"encoding/json"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// language guesses by what the tools of a language keep in an app's folder.
func (l looking) language() {
	for _, guess := range []func() bool{l.node, l.python, l.ruby, l.php, l.java, l.golang} {
		if guess() {
			return
		}
	}
}

func (l looking) web(from, command string) *Service {
	l.source(from)
	l.d.Services = append(l.d.Services, Service{Name: "web", Command: command, From: from})
	return &l.d.Services[len(l.d.Services)-1]
}

func (l looking) node() bool {
	var p struct {
		Main         string
		Scripts      map[string]string
		Dependencies map[string]string
	}
	text := l.text("package.json")
	if text == "" || json.Unmarshal([]byte(text), &p) != nil {
		return false
	}
	switch {
	case p.Scripts["start"] != "":
		l.web("package.json", "npm start")
		// A signal for npm does not reach what it started.
		if simple := strings.Fields(p.Scripts["start"]); len(simple) > 0 && simple[0] == "node" && !strings.ContainsAny(p.Scripts["start"], "&|;<>$`") {
			l.d.web().Command = p.Scripts["start"]
		}
	case p.Dependencies["next"] != "":
		l.web("package.json", "npx next start")
	case p.Main != "":
		l.web("package.json", "node "+p.Main)
	case l.has("server.js"):
		l.web("package.json", "node server.js")
	default:
		l.web("package.json", "")
	}
	if name := p.Scripts["worker"]; name != "" {
		l.d.Services = append(l.d.Services, Service{Name: "worker", Worker: true, Command: "npm run worker", From: "package.json"})
	}
	return true
}

func (l looking) python() bool {
	for _, from := range []string{"requirements.txt", "pyproject.toml", "Pipfile", "setup.py"} {
		text := strings.ToLower(l.text(from))
		if text == "" {
			continue
		}
		needs := func(name string) bool {
			return regexp.MustCompile(`(?m)(^|[\s"'\[,])` + name + `($|[\s"'\[<>=~!;,])`).MatchString(text)
		}
		django := l.django()
		app := l.module("app", "main", "wsgi", "server", "api")
		command := ""
		switch {
		case django != "" && needs("gunicorn"):
			command = "gunicorn --bind 0.0.0.0:$PORT " + django + ".wsgi"
		case django != "" && needs("uvicorn"):
			command = "uvicorn --host 0.0.0.0 --port $PORT " + django + ".asgi:application"
		case needs("uvicorn"), needs("fastapi"), needs("starlette"):
			command = "uvicorn --host 0.0.0.0 --port $PORT " + app + ":app"
		case needs("gunicorn"):
			command = "gunicorn --bind 0.0.0.0:$PORT " + app + ":app"
		case django != "":
			command = "python manage.py runserver 0.0.0.0:$PORT"
			l.d.note("runserver is for development: add gunicorn to " + from + ".")
		case needs("flask"):
			command = "flask --app " + app + " run --host 0.0.0.0 --port $PORT"
			l.d.note("flask run is for development: add gunicorn to " + from + ".")
		case l.has(app + ".py"):
			command = "python " + app + ".py"
		}
		l.web(from, command)
		if needs("celery") {
			l.d.Services = append(l.d.Services, Service{Name: "worker", Worker: true, Command: "celery -A " + orElse(django, app) + " worker", From: from})
		}
		return true
	}
	return false
}

func orElse(v, absent string) string {
	if v == "" {
		return absent
	}
	return v
}

// django is the package with wsgi.py beside manage.py, "" where there is none.
func (l looking) django() string {
	if !l.has("manage.py") {
		return ""
	}
	found, err := fs.Glob(l.dir, "*/wsgi.py")
	if err != nil || len(found) == 0 {
		return ""
	}
	return path.Dir(found[0])
}

// module is the first of the Python modules that is there, or the first.
func (l looking) module(names ...string) string {
	for _, name := range names {
		if l.has(name + ".py") {
			return name
		}
	}
	return names[0]
}

func (l looking) ruby() bool {
	text := l.text("Gemfile")
	if text == "" {
		return false
	}
	needs := func(gem string) bool {
		return regexp.MustCompile(`(?m)^\s*gem\s+["']` + gem + `["']`).MatchString(text)
	}
	switch {
	case needs("puma") && l.has("config/puma.rb"):
		l.web("Gemfile", "bundle exec puma -C config/puma.rb")
	case needs("puma"):
		l.web("Gemfile", "bundle exec puma --bind tcp://0.0.0.0:$PORT")
	case needs("rails"):
		l.web("Gemfile", "bundle exec rails server --binding 0.0.0.0 --port $PORT")
	case l.has("config.ru"):
		l.web("Gemfile", "bundle exec rackup --host 0.0.0.0 --port $PORT")
	default:
		l.web("Gemfile", "")
	}
	if needs("rails") {
		l.d.web().HealthPath = "/up"
	}
	if needs("sidekiq") {
		l.d.Services = append(l.d.Services, Service{Name: "worker", Worker: true, Command: "bundle exec sidekiq", From: "Gemfile"})
	}
	return true
}

func (l looking) php() bool {
	if l.text("composer.json") == "" {
		return false
	}
	root := "."
	for _, dir := range []string{"public", "web", "htdocs"} {
		if l.has(dir + "/index.php") {
			root = dir
			break
		}
	}
	l.web("composer.json", "php -S 0.0.0.0:$PORT -t "+root)
	l.d.note("PHP's own server answers one request at a time: FrankenPHP, or PHP-FPM behind nginx, serves many.")
	if l.has("artisan") {
		l.d.web().HealthPath = "/up"
		l.d.Services = append(l.d.Services, Service{Name: "worker", Worker: true, Command: "php artisan queue:work", From: "composer.json"})
	}
	return true
}

func (l looking) java() bool {
	from, text := "", ""
	for _, name := range []string{"pom.xml", "build.gradle", "build.gradle.kts"} {
		if text = l.text(name); text != "" {
			from = name
			break
		}
	}
	jars := []string{}
	for _, pattern := range []string{"*.jar", "target/*.jar", "build/libs/*.jar"} {
		found, err := fs.Glob(l.dir, pattern)
		if err == nil {
			jars = append(jars, found...)
		}
	}
	jars = slices.DeleteFunc(jars, func(name string) bool {
		return strings.HasSuffix(name, "-sources.jar") || strings.HasSuffix(name, "-plain.jar") || strings.HasSuffix(name, "-javadoc.jar")
	})
	jar := "app.jar"
	if len(jars) > 0 {
		jar = path.Base(jars[0])
		from = orElse(from, jars[0])
	}
	if from == "" {
		return false
	}
	s := l.web(from, "java -XX:MaxRAMPercentage=75 -jar "+jar)
	s.Grace, s.Size = "3m", "medium"
	if strings.Contains(text, "actuator") {
		s.HealthPath = "/actuator/health"
	}
	if strings.Contains(text, "spring-boot") {
		l.d.note("Spring Boot listens on PORT where SERVER_PORT or server.port says so: server.port=${PORT:8080} in application.properties.")
	}
	return true
}

var (
	goModule = regexp.MustCompile(`(?m)^module\s+(\S+)`)
	version  = regexp.MustCompile(`^v[0-9]+$`)
)

func (l looking) golang() bool {
	m := goModule.FindStringSubmatch(l.text("go.mod"))
	if m == nil {
		return false
	}
	name := m[1]
	if version.MatchString(path.Base(name)) {
		name = path.Dir(name)
	}
	name = path.Base(name)
	commands, err := fs.Glob(l.dir, "cmd/*/main.go")
	if err == nil && len(commands) > 0 && !l.has("main.go") {
		name = path.Base(path.Dir(commands[0]))
	}
	l.web("go.mod", "/app/"+name)
	l.d.note("The command is where the program lies in what is published: go build -o root/app/" + name + ", then pack the folder root.")
	return true
}
