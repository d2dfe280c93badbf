package main

import (
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

// The Service of the story and who is behind it, at the addresses that testenv gives to pods.
//
//go:embed demo/*.yaml
var demoFiles embed.FS

// everyone lists the pods behind the Service.
var everyone = []string{"pod-a1", "pod-b1"}

// manifests is the folder that the agents watch.
func (d *demo) manifests() string { return filepath.Join(d.dir, "manifests") }

func (d *demo) writeManifests() error {
	if err := os.Mkdir(d.manifests(), 0o755); err != nil {
		return err
	}
	files, err := demoFiles.ReadDir("demo")
	if err != nil {
		return err
	}
	for _, f := range files {
		text, err := demoFiles.ReadFile("demo/" + f.Name())
		if err == nil {
			err = d.writeManifest(f.Name(), text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeManifest writes in one step, as the agents may read at any time.
func (d *demo) writeManifest(name string, text []byte) error {
	temp := filepath.Join(d.dir, name)
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(d.manifests(), name))
}

// setBackends rewrites the EndpointSlices so that they name those pods of everyone's that are given, and
// returns how long it took until the kernel of every node had it.
func (d *demo) setBackends(ctx context.Context, pods ...string) (time.Duration, error) {
	began := time.Now()
	for _, name := range []string{"web-ipv4.yaml", "web-ipv6.yaml"} {
		text, err := demoFiles.ReadFile("demo/" + name)
		if err != nil {
			return 0, err
		}
		var slice discoveryv1.EndpointSlice
		if err := yaml.UnmarshalStrict(text, &slice); err != nil {
			return 0, fmt.Errorf("demo/%s: %w", name, err)
		}
		slice.Endpoints = slices.DeleteFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
			return !slices.Contains(pods, e.TargetRef.Name)
		})
		if text, err = yaml.Marshal(slice); err != nil {
			return 0, err
		}
		if err := d.writeManifest(name, text); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, n := range d.Nodes {
		if err := testenv.Eventually(ctx, func(context.Context) error { return checkBackends(n, len(pods)) }); err != nil {
			return 0, fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return time.Since(began), nil
}

// checkBackends looks into the node's tables, as `svcproxy services` does.
func checkBackends(n *testenv.Node, count int) error {
	view, err := bpf.Open(n.BPFRoot)
	if err != nil {
		return err
	}
	defer view.Close()
	snapshot, err := reconcile.Read(view)
	if err != nil {
		return err
	}
	for _, s := range snapshot.Services {
		for _, f := range s.Frontends {
			if len(f.Inside.Backends) != count {
				return fmt.Errorf("%s has %d backends in the kernel, not %d", f.Address, len(f.Inside.Backends), count)
			}
		}
	}
	return nil
}
