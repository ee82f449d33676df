package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/store"
)

// upFlags are what an operator says on the command line.
type upFlags struct {
	data, api, http, metrics, driver, accel, domain string
	templates                                       int
	logRate, logSpoolMB                             int
	region, zone                                    string
	binds, allowTargets, trustedProxies             []string
	proxyProtocol                                   bool
	overcommit                                      float64
	example, verbose                                bool
	accessLog                                       string
	tcpPorts, placement                             string
	otlpTraces                                      string
	victoriaLogs                                    []string
}

func upCommand() *cobra.Command {
	f := upFlags{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the whole platform on this machine",
		Long: `Run every role in this one process: records, API, control, the host's agent and
the router. When everything answers, DIR/context.json is written; the other
commands of miosa use it.

Ctrl-C (SIGINT) stops the instances and ends; the deployments stay and come
back with the next "miosa up". SIGTERM ends the platform and leaves the
instances running: the next "miosa up" takes them over again, as it does after
a crash. "miosa down" stops everything.`,
		Example: `  miosa up
  miosa up --example
  miosa up --data /srv/miosa --http 127.0.0.1:80 --managed-domain apps.example
  miosa up --http 10.0.0.5:7080 --trusted-proxy 10.0.0.2
  miosa up --bind 'AUTH_URL=https://auth.example/{tenant}/{deployment}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config()
			if err != nil {
				return err
			}
			// From here on the signals are ours: see platform.end.
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
			defer signal.Stop(signals)
			return runPlatform(cfg, signals, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.data, "data", defaultDataDir(), "directory of everything the platform keeps")
	fl.StringVar(&f.api, "api", "127.0.0.1:7070", "address of the API")
	fl.StringVar(&f.http, "http", "127.0.0.1:7080", "address of the router: where the apps answer")
	fl.StringVar(&f.placement, "placement", string(schedule.Spread), "which of the hosts that are equally good is filled first: `spread` takes the emptiest, pack the fullest that has room")
	fl.StringVar(&f.tcpPorts, "tcp-ports", "", "ports of the router's, `FIRST-LAST`, for services of protocol tcp, at the address of --http; without it such services are refused")
	fl.IntVar(&f.templates, "templates", 4, "machine sizes kept booted in memory, for instances to start from (under emulation only; some 100 MB each); 0: every instance boots a kernel")
	fl.StringVar(&f.metrics, "metrics", defaultMetrics, "address of /metrics (Prometheus); empty: none")
	fl.IntVar(&f.logRate, "log-rate", 0, "log lines a second that one instance may write for long; 0: 5000, negative: any number")
	fl.IntVar(&f.logSpoolMB, "log-spool-mb", 0, "log lines that one instance may have on this host's disk until they are stored, in MB; 0: 64")
	fl.StringArrayVar(&f.victoriaLogs, "victorialogs", nil, "keep logs in the VictoriaLogs at URL that was started with -retentionPeriod=DAYSd, DAYS=URL; one for each retention; without it logs are kept in --data")
	fl.StringVar(&f.driver, "driver", "auto", "what boots the instances: auto, qemu, sim (no VMs: for tries and tests); firecracker is not in this version yet")
	fl.StringVar(&f.accel, "accel", "auto", "qemu's accelerator: auto, kvm, tcg")
	fl.StringVar(&f.domain, "managed-domain", "localhost", "apps are served at <deployment>.<tenant>.DOMAIN")
	fl.StringVar(&f.region, "region", "local", "name of this machine's region")
	fl.StringVar(&f.zone, "zone", "local-a", "name of this machine's zone")
	fl.StringArrayVar(&f.binds, "bind", nil, "variable injected into every instance, KEY=TEMPLATE over {tenant} {deployment} {environment} {service}; may be repeated")
	fl.StringArrayVar(&f.allowTargets, "allow-target", nil, "addresses, `CIDR`, that customers' log drains, webhooks and registries may lead to though they are not public, also without TLS; may be repeated")
	fl.StringArrayVar(&f.trustedProxies, "trusted-proxy", nil, "addresses, `CIDR`, of load balancers and other proxies in front of the router: what they say in X-Forwarded-For, -Proto and -Host is taken; may be repeated")
	fl.BoolVar(&f.proxyProtocol, "proxy-protocol", false, "connections from a --trusted-proxy begin with a PROXY protocol header (version 1 or 2), which names the client; one without it is closed")
	fl.Float64Var(&f.overcommit, "cpu-overcommit", 8, "how many vCPUs may be promised per core")
	fl.BoolVar(&f.example, "example", false, "publish the example app if there is no deployment yet")
	fl.StringVar(&f.accessLog, "access-log", "", "file for the router's access log, one JSON object a line; - for standard output")
	fl.StringVar(&f.otlpTraces, "otlp-traces", "", "OTLP/HTTP endpoint for traces of rollouts and placements, http(s)://HOST:PORT[/PATH]; headers from OTEL_EXPORTER_OTLP_HEADERS")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	return cmd
}

func (f upFlags) config() (platformConfig, error) {
	data, err := filepath.Abs(f.data)
	if err != nil {
		return platformConfig{}, err
	}
	cfg := platformConfig{
		data: data, api: f.api, http: f.http, metrics: f.metrics, driver: f.driver, accel: f.accel, templates: f.templates, logRate: f.logRate, logSpoolMB: f.logSpoolMB, domain: strings.ToLower(strings.Trim(f.domain, ".")),
		region: f.region, zone: f.zone, overcommit: f.overcommit, example: f.example, accessLog: f.accessLog, verbose: f.verbose, otlpTraces: f.otlpTraces,
	}
	switch f.driver {
	case "auto", "qemu", "sim":
	case "firecracker":
		return cfg, miosa.Errorf(miosa.Invalid, "the firecracker driver is not in this version yet: use --driver qemu")
	default:
		return cfg, miosa.Errorf(miosa.Invalid, "--driver %q is none of auto, qemu, sim", f.driver)
	}
	if f.accel != "auto" && f.accel != "kvm" && f.accel != "tcg" {
		return cfg, miosa.Errorf(miosa.Invalid, "--accel %q is none of auto, kvm, tcg", f.accel)
	}
	if cfg.domain == "" {
		return cfg, miosa.Errorf(miosa.Invalid, "--managed-domain must name a domain, e.g. apps.example")
	}
	switch cfg.placement = schedule.Policy(f.placement); cfg.placement {
	case "", schedule.Spread, schedule.Pack:
	default:
		return cfg, miosa.Errorf(miosa.Invalid, "--placement %q is neither spread nor pack", f.placement)
	}
	if cfg.tcpPorts, err = parsePorts(f.tcpPorts); err != nil {
		return cfg, err
	}
	for name, addr := range map[string]string{"--api": f.api, "--http": f.http, "--metrics": f.metrics} {
		if _, port, err := net.SplitHostPort(addr); err == nil {
			if n, err := strconv.Atoi(port); err == nil && n != 0 && n >= cfg.tcpPorts.First && n <= cfg.tcpPorts.Last {
				return cfg, miosa.Errorf(miosa.Invalid, "--tcp-ports %s holds port %d of %s: give it other ports", cfg.tcpPorts, n, name)
			}
		}
	}
	if f.logSpoolMB < 0 {
		return cfg, miosa.Errorf(miosa.Invalid, "--log-spool-mb must not be negative; 0 is the default of 64")
	}
	if f.overcommit < 1 {
		return cfg, miosa.Errorf(miosa.Invalid, "--cpu-overcommit must be at least 1")
	}
	if cfg.victoriaLogs, err = parseVictoriaLogs(f.victoriaLogs); err != nil {
		return cfg, err
	}
	for _, b := range f.binds {
		binding, err := cell.ParseBinding(b)
		if err != nil {
			return cfg, err
		}
		cfg.bindings = append(cfg.bindings, binding)
	}
	for _, v := range f.allowTargets {
		prefix, err := parseRange("--allow-target", v)
		if err != nil {
			return cfg, err
		}
		cfg.allowTargets = append(cfg.allowTargets, prefix)
	}
	for _, v := range f.trustedProxies {
		prefix, err := parseRange("--trusted-proxy", v)
		if err != nil {
			return cfg, err
		}
		cfg.trustedProxies = append(cfg.trustedProxies, prefix)
	}
	if cfg.proxyProtocol = f.proxyProtocol; cfg.proxyProtocol && len(cfg.trustedProxies) == 0 {
		return cfg, miosa.Errorf(miosa.Invalid, "--proxy-protocol needs --trusted-proxy: from anybody else the header would be a way to pose as others")
	}
	return cfg, nil
}

// parsePorts reads the flag --tcp-ports: FIRST-LAST, or a single one; "": none.
func parsePorts(v string) (r store.PortRange, err error) {
	if v == "" {
		return r, nil
	}
	first, last, found := strings.Cut(v, "-")
	if !found {
		last = first
	}
	if r.First, err = strconv.Atoi(first); err == nil {
		r.Last, err = strconv.Atoi(last)
	}
	if err != nil || r.First < 1 || r.Last > 65535 || r.First > r.Last {
		return store.PortRange{}, miosa.Errorf(miosa.Invalid, "--tcp-ports %q is no range of ports: write 30000-30999", v)
	}
	return r, nil
}

// parseRange reads a flag's range of addresses, or a single one.
func parseRange(flag, v string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(v); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(v)
	switch {
	case err != nil:
		return p, miosa.Errorf(miosa.Invalid, "%s %q is no range of addresses: write 10.1.0.0/16 or fd00::/8", flag, v)
	case p.Addr().Is4In6():
		return p, miosa.Errorf(miosa.Invalid, "%s %s: write the IPv4 range itself", flag, p)
	case p != p.Masked():
		return p, miosa.Errorf(miosa.Invalid, "%s %s has bits behind its length: did you mean %s?", flag, p, p.Masked())
	}
	return p, nil
}

// defaultDataDir is /var/lib/miosa for root, else below the user's own.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/miosa"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "miosa")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("miosa-%d", os.Getuid()))
	}
	return filepath.Join(home, ".local", "share", "miosa")
}
