package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// asMain in the environment makes the test binary the command itself: the demo starts its own executable.
const asMain = "SVCPROXY_TEST_AS_MAIN"

// binary is what is shipped, built as it is shipped.
var binary string

func TestMain(m *testing.M) {
	testenv.Main()
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "svcproxy-cli-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // one test runs it as nobody
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "svcproxy")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build svcproxy:", err)
		return 1
	}
	return m.Run()
}

// execute runs a command to its end.
func execute(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestHelp(t *testing.T) {
	root := newCommand()
	root.InitDefaultHelpCmd()
	for _, verb := range root.Commands() {
		t.Run(verb.Name(), func(t *testing.T) {
			code, stdout, stderr := execute(t, exec.Command(binary, verb.Name(), "--help"))
			if code != 0 || stderr != "" {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			about, _, _ := strings.Cut(verb.Long+"\n", "\n")
			if verb.Long == "" {
				about = verb.Short
			}
			for _, want := range []string{about, "Usage:\n  svcproxy " + verb.Name(), "-h, --help"} {
				if !strings.Contains(stdout, want) {
					t.Errorf("help lacks %q:\n%s", want, stdout)
				}
			}
		})
	}
	_, overview, _ := execute(t, exec.Command(binary))
	for _, verb := range []string{"run", "demo", "status", "services", "backends", "flows", "cleanup", "version"} {
		if !strings.Contains(overview, "\n  "+verb+" ") {
			t.Errorf("svcproxy alone does not list %s:\n%s", verb, overview)
		}
	}
}

// --version of run is as kube-proxy's: a bool, or raw.
func TestVersionFlag(t *testing.T) {
	_, plain, _ := execute(t, exec.Command(binary, "version"))
	for arg, want := range map[string]string{"--version": plain, "--version=true": plain, "--version=raw": "version.Info{Major:\"\", "} {
		code, stdout, stderr := execute(t, exec.Command(binary, "run", arg))
		if code != 0 || !strings.HasPrefix(stdout, want) || strings.Count(stdout, "\n") != 1 || stderr != "" {
			t.Errorf("%s: exit code %d, %q, stderr %q; want %q", arg, code, stdout, stderr, want)
		}
	}
}

func TestWrongCommandLines(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	for _, test := range []struct{ name, args, want string }{
		{"unknown verb", "serve", `unknown command "serve" for "svcproxy"`},
		{"unknown flag", "demo --fast", "unknown flag: --fast"},
		{"argument too many", "services web", `unknown command "web" for "svcproxy services"`},
		{"flag without value", "services --bpf-root", "flag needs an argument: --bpf-root"},
		{"not a bool", "demo --keep=maybe", `invalid argument "maybe" for "--keep" flag`},
		{"output format", "services -o xml", `--output "xml": not json, yaml or wide`},
		{"detect-local-mode", "run --detect-local-mode Guess", `--detect-local-mode "Guess": not ClusterCIDR`},
		{"cluster-cidr", "run --cluster-cidr 10.0.0.0", `--cluster-cidr "10.0.0.0"`},
		{"nodeport-addresses", "run --nodeport-addresses lan", `"lan" is no CIDR`},
		{"healthz-bind-address", "run --healthz-bind-address here", `--healthz-bind-address "here:10256"`},
		{"bpf-root", "run --bpf-root here", `--bpf-root "here": not an absolute path`},
		{"snat-ports", "run --snat-ports 5-1", `--snat-ports "5-1": not FIRST-LAST`},
		{"snat-ports of cleanup", "cleanup --snat-ports all", `--snat-ports "all": not FIRST-LAST`},
		{"configuration file", "run --config " + absent, absent},
		{"services without an agent", "services --bpf-root " + absent, "no agent has run with --bpf-root " + absent},
		{"backends without an agent", "backends --bpf-root " + absent, "no agent has run with --bpf-root " + absent},
		{"flows without an agent", "flows --bpf-root " + absent, "no agent has run with --bpf-root " + absent},
		{"status without an agent", "status --bpf-root " + absent, "no agent has run with --bpf-root " + absent},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := execute(t, exec.Command(binary, strings.Fields(test.args)...))
			if code != 1 || stdout != "" {
				t.Errorf("exit code %d, not 1; stdout %q", code, stdout)
			}
			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n") // the agent logs its start first
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "svcproxy: ") || !strings.Contains(last, test.want) {
				t.Errorf("stderr does not end with one line with %q:\n%s", test.want, stderr)
			}
		})
	}
}

// checkFormats looks at every table of a node, in every format.
func checkFormats(t *testing.T, bpfRoot string) {
	for verb, want := range map[string]struct{ plain, wide string }{
		"services": {"10.96.0.10:80/tcp", "OUTSIDE BACKENDS"},
		"backends": {"10.244.1.11:8080/tcp", "GENERATION"},
		"flows":    {"172.30.0.11:30080", "SOURCE SEEN"},
		"status":   {"socket hooks", "event "},
	} {
		t.Run(verb, func(t *testing.T) {
			show := func(format ...string) string {
				t.Helper()
				code, stdout, stderr := execute(t, exec.Command(binary, append([]string{verb, "--bpf-root", bpfRoot}, format...)...))
				if code != 0 || stderr != "" {
					t.Fatalf("%v: exit code %d, stderr %q", format, code, stderr)
				}
				return stdout
			}
			plain, wide := show(), show("-o", "wide")
			if !strings.Contains(plain, want.plain) {
				t.Errorf("table lacks %q:\n%s", want.plain, plain)
			}
			if len(wide) <= len(plain) || !strings.Contains(wide, want.wide) {
				t.Errorf("wide table lacks %q:\n%s", want.wide, wide)
			}
			var fromJSON, fromYAML any
			if err := json.Unmarshal([]byte(show("-o", "json")), &fromJSON); err != nil {
				t.Errorf("-o json: %v", err)
			}
			if err := yaml.Unmarshal([]byte(show("-o", "yaml")), &fromYAML); err != nil {
				t.Errorf("-o yaml: %v", err)
			}
			if a, b := fmt.Sprintf("%T", fromJSON), fmt.Sprintf("%T", fromYAML); a != b || fromJSON == nil {
				t.Errorf("JSON is a %s, YAML a %s", a, b)
			}
		})
	}
}

// The demo needs testenv; what testenv has for tests only must not come with it.
func TestShippedPackages(t *testing.T) {
	code, stdout, stderr := execute(t, exec.Command("go", "list", "-deps", "."))
	if code != 0 {
		t.Fatalf("go list: %s", stderr)
	}
	for name := range strings.FieldsSeq(stdout) {
		for _, banned := range []string{"testing", "k8s.io/kubernetes", "go.etcd.io", "github.com/google/go-cmp",
			"github.com/svcproxy/svcproxy/internal/testenv/apiserver"} {
			if name == banned || strings.HasPrefix(name, banned+"/") {
				t.Errorf("%s is in the shipped binary", name)
			}
		}
	}
}
