package test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// A start that cannot work ends at once, with exit status 1 and one line that names what is wrong.
func TestWrongStart(t *testing.T) {
	t.Parallel()
	c := testenv.MustNew(t, testenv.Options{Nodes: 1})
	node, dir := c.Nodes[0], t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	manifests := t.TempDir()
	listener, err := node.Listen("127.0.0.1:20256")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, tt := range []struct {
		name string
		args []string
		want []string // all in the one line
	}{
		{"unknown flag", []string{"--no-such-flag"}, []string{"--no-such-flag"}},
		{"argument", []string{"now"}, []string{"now"}},
		{"no bpffs", []string{"--manifests", manifests, "--bpf-root", dir}, []string{dir, "bpffs", "--bpf-root"}},
		{"relative bpf root", []string{"--manifests", manifests, "--bpf-root", "here"}, []string{"--bpf-root", "here"}},
		{"cgroup root is not there", []string{"--manifests", manifests, "--cgroup-root", dir + "/none"}, []string{"--cgroup-root", dir + "/none"}},
		{"cgroup root is no cgroup", []string{"--manifests", manifests, "--cgroup-root", dir}, []string{"--cgroup-root", dir}},
		{"no kubeconfig", []string{"--kubeconfig", dir + "/none"}, []string{dir + "/none"}},
		{"kubeconfig of nonsense", []string{"--kubeconfig", file("nonsense", "{nonsense")}, []string{dir + "/nonsense"}},
		{"kubeconfig without a server", []string{"--kubeconfig", file("empty", "apiVersion: v1\nkind: Config\n")}, []string{dir + "/empty"}},
		{"neither API server nor manifests", nil, []string{"kubeconfig"}},
		{"no folder of manifests", []string{"--manifests", dir + "/none"}, []string{dir + "/none"}},
		{"manifests are a file", []string{"--manifests", file("file.yaml", "")}, []string{dir + "/file.yaml"}},
		{"configuration file is not there", []string{"--config", dir + "/none"}, []string{dir + "/none"}},
		{"configuration file of nonsense", []string{"--config", file("config", "kind: Nonsense")}, []string{dir + "/config"}},
		{"health address", []string{"--manifests", manifests, "--healthz-bind-address", "nowhere"}, []string{"--healthz-bind-address", "nowhere"}},
		{"nodeport addresses", []string{"--manifests", manifests, "--nodeport-addresses", "10.0.0.0/99"}, []string{"--nodeport-addresses", "10.0.0.0/99"}},
		{"cluster CIDR", []string{"--manifests", manifests, "--cluster-cidr", "10.0.0.0"}, []string{"--cluster-cidr", "10.0.0.0"}},
		{"SNAT ports are no range", []string{"--manifests", manifests, "--snat-ports", "20000"}, []string{"--snat-ports", "20000"}},
		{"SNAT ports are other sockets'", []string{"--manifests", manifests, "--snat-ports", "40000-50000"}, []string{"--snat-ports", "40000-50000", "ip_local_port_range"}},
		{"devices", []string{"--manifests", manifests, "--devices", "eth[0"}, []string{"--devices", "eth[0"}},
		{"health port taken, hard fail", []string{"--manifests", manifests, "--healthz-bind-address", "127.0.0.1:20256", "--bind-address-hard-fail"},
			[]string{"127.0.0.1:20256", "in use"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := launchAgent(t, node, tt.args...)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var exit *exec.ExitError
			if err := a.Wait(ctx); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Fatalf("agent ended with %v, want exit status 1", err)
			}
			var lines []string // that are no log
			for line := range strings.Lines(a.log.String()) {
				if !strings.HasPrefix(line, "time=") {
					lines = append(lines, line)
				}
			}
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "svcproxy: ") {
				t.Fatalf("it says %q, want one line", lines)
			}
			for _, want := range tt.want {
				if !strings.Contains(lines[0], want) {
					t.Errorf("it says %q, want %q in it", lines[0], want)
				}
			}
			if strings.Contains(a.log.String(), "panic") {
				t.Error("it panicked")
			}
		})
	}
}

// Without --bind-address-hard-fail a taken port is tried again, and Services are served meanwhile.
func TestHealthPortTaken(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	listener, err := node.Listen("0.0.0.0:10256")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	a := launchAgent(t, node, "--manifests", dir)
	a.logged(t, "will try again")
	answered(t, node.Pods[1], "tcp", webAddrs()[0], c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name)
	listener.Close()
	if err := a.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}
