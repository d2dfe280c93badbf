package config

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Flags of kube-proxy beside a file are ignored, and a line says so; ours are not.
func TestFlagsBesideFile(t *testing.T) {
	path := writeFile(t, header+"clusterCIDR: 10.0.0.0/8\nlogging: {verbosity: 1}\n")
	c := mustParse(t, "--config", path, "--cluster-cidr=192.0.2.0/24", "--metrics-port=0", "--master=https://192.0.2.1", "-v=7", "--bpf-root=/root", "--hostname-override=n")
	if c.Proxy.ClusterCIDR != "10.0.0.0/8" || c.Proxy.MetricsBindAddress != "127.0.0.1:10249" || c.Master != "https://192.0.2.1" || c.Proxy.Logging.Verbosity != 7 || c.BPFRoot != "/root" || c.Node != "n" {
		t.Errorf("cluster CIDR %q, metrics %q, master %q, verbosity %d, bpf root %q, node %q",
			c.Proxy.ClusterCIDR, c.Proxy.MetricsBindAddress, c.Master, c.Proxy.Logging.Verbosity, c.BPFRoot, c.Node)
	}
	if all := strings.Join(c.Warnings, "\n"); len(c.Warnings) != 2 || !strings.Contains(all, "--cluster-cidr") || !strings.Contains(all, "--metrics-port") {
		t.Errorf("warnings %q", c.Warnings)
	}
}

// Strict first, then lenient: each unknown or doubled field is one line with its path, the rest counts.
func TestUnknownFields(t *testing.T) {
	c := mustParse(t, "--config", writeFile(t, header+"conntrack: {maxPerCores: 5, min: 7}\nnone: 1\nclusterCIDR: 10.0.0.0/8\nclusterCIDR: 10.0.0.0/8\n"))
	all := strings.Join(c.Warnings, "\n")
	for _, want := range []string{`unknown field "conntrack.maxPerCores"`, `unknown field "none"`, `"clusterCIDR" already set`} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning says %s:\n%s", want, all)
		}
	}
	if *c.Proxy.Conntrack.Min != 7 || c.Proxy.ClusterCIDR != "10.0.0.0/8" {
		t.Errorf("conntrack.min %d, clusterCIDR %q: the rest of the file is not used", *c.Proxy.Conntrack.Min, c.Proxy.ClusterCIDR)
	}
}

func TestBadFiles(t *testing.T) {
	for name, text := range map[string]string{
		"another kind": "kind: Pod\napiVersion: v1\n", "no YAML": "a: [", "empty": "",
		"another version":                    "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1\n",
		"wrong type":                         header + "clientConnection: {burst: many}\n",
		"wrong type beside an unknown field": header + "none: 1\nclientConnection: {burst: many}\n",
	} {
		path := writeFile(t, text)
		if _, err := parse("--config", path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v does not name the file", name, err)
		}
	}
	if _, err := parse("--config=/does/not/exist"); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("missing file: error %v", err)
	}
}

// What is written reads back the same.
func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "written")
	c := mustParse(t, "--cluster-cidr=10.0.0.0/8", "--conntrack-min=7", "--hostname-override=n", "--metrics-bind-address=127.0.0.1:5")
	if err := c.Write(path); err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, "--config", path)
	again.Proxy.TypeMeta = c.Proxy.TypeMeta
	if diff := cmp.Diff(c.Proxy, again.Proxy); diff != "" || len(again.Warnings) != 0 {
		t.Errorf("warnings %q, -written +read\n%s", again.Warnings, diff)
	}
	if err := c.Write("/does/not/exist"); err == nil || !strings.Contains(err.Error(), "--write-config-to") {
		t.Errorf("error %v", err)
	}
}

func TestConfigz(t *testing.T) {
	text, err := mustParse(t, "--cluster-cidr=10.0.0.0/8").Configz()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]struct{ APIVersion, Kind, ClusterCIDR, HealthzBindAddress string }
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]struct{ APIVersion, Kind, ClusterCIDR, HealthzBindAddress string }{
		"kubeproxy.config.k8s.io": {"kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", "10.0.0.0/8", "0.0.0.0:10256"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// for a file that is written, replaced, or mounted from a ConfigMap.
func TestWatchFile(t *testing.T) {
	other := header + "clusterCIDR: 10.0.0.0/8\n"
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, path string)
	}{
		{"written", func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte(other), 0o600)) }},
		{"renamed into place", func(t *testing.T, path string) {
			must(t, os.WriteFile(path+".new", []byte(other), 0o600))
			must(t, os.Rename(path+".new", path))
		}},
		{"missing for a while", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.WriteFile(path, []byte(other), 0o600))
		}},
		{"ConfigMap", func(t *testing.T, path string) {
			dir := filepath.Dir(path)
			must(t, os.Mkdir(filepath.Join(dir, "..2"), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "..2/config.conf"), []byte(other), 0o600))
			must(t, os.Symlink("..2", filepath.Join(dir, "..data_tmp")))
			must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
			must(t, os.RemoveAll(filepath.Join(dir, "..1")))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "config.conf")
			must(t, os.Mkdir(filepath.Join(dir, "..1"), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "..1/config.conf"), []byte(header), 0o600))
			must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
			must(t, os.Symlink("..data/config.conf", path))
			c := mustParse(t, "--config", path)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- c.WatchFile(ctx) }()
			tc.change(t, path)
			if err := <-done; err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v does not name the file", err)
			}
		})
	}
}

func TestWatchFileEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := mustParse(t, "--config", writeFile(t, header))
	done := make(chan error, 1)
	go func() { done <- c.WatchFile(ctx) }()
	// The same text in another file, and a neighbour, are no change.
	must(t, os.WriteFile(c.File+".new", []byte(header), 0o600))
	must(t, os.Rename(c.File+".new", c.File))
	must(t, os.WriteFile(c.File+".old", nil, 0o600))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := mustParse(t).WatchFile(t.Context()); err != nil { // no file: ends at once
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
