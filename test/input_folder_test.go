package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// A folder without anything in it is a cluster without Services, now and later.
func TestEmptyFolder(t *testing.T) {
	t.Parallel()
	c, full := lifeCluster(t)
	node, client, dir := c.Nodes[0], c.Nodes[0].Pods[1], t.TempDir()
	startAgent(t, node, "--manifests", dir)
	if n := len(kernelTables(t, node).Services); n != 0 {
		t.Errorf("%d services in the kernel", n)
	}
	both := []string{c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name}
	for range 2 {
		if err := os.Rename(filepath.Join(full, "web.yaml"), filepath.Join(dir, "web.yaml")); err != nil {
			t.Fatal(err)
		}
		answered(t, client, "tcp", webAddrs()[0], both...)
		if err := os.Rename(filepath.Join(dir, "web.yaml"), filepath.Join(full, "web.yaml")); err != nil {
			t.Fatal(err)
		}
		unreachable(t, node, webAddrs()[0])
	}
}

// A ConfigMap mount: files are links through ..data, which is replaced in one step.
func TestConfigMapFolder(t *testing.T) {
	t.Parallel()
	c, _ := lifeCluster(t)
	node, client, dir := c.Nodes[0], c.Nodes[0].Pods[1], t.TempDir()
	version := 0
	publish := func(pods ...*testenv.Pod) {
		t.Helper()
		version++
		data := fmt.Sprintf("..version_%d", version)
		s := service("mounted", 30, 30030)
		must(t, os.Mkdir(filepath.Join(dir, data), 0o755))
		manifest(t, filepath.Join(dir, data), "mounted.yaml", append([]any{s}, slices(s, backends(pods...)...)...)...)
		must(t, os.Symlink(data, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if version > 1 {
			must(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..version_%d", version-1))))
		}
	}
	publish(c.Nodes[0].Pods[0])
	must(t, os.Symlink(filepath.Join("..data", "mounted.yaml"), filepath.Join(dir, "mounted.yaml")))
	startAgent(t, node, "--manifests", dir)
	var l loads
	l.start(t, client.Host, "tcp", clusterIPv4(30)+":80", false)
	l.start(t, c.Clients[0].Host, "tcp", nodeAddrs(node, 30030)[0], false)
	for _, pod := range []*testenv.Pod{c.Nodes[0].Pods[0], c.Nodes[1].Pods[0], c.Nodes[1].Pods[1], c.Nodes[0].Pods[0]} {
		publish(pod)
		answered(t, client, "tcp", clusterIPv4(30)+":80", pod.Name)
	}
	l.stop(t)
}

// The folder itself is a link that is led elsewhere, goes away and comes back.
func TestFolderReplaced(t *testing.T) {
	t.Parallel()
	c, first := lifeCluster(t)
	node, client, a0, b1 := c.Nodes[0], c.Nodes[0].Pods[1], c.Nodes[0].Pods[0], c.Nodes[1].Pods[1]
	second, dir := t.TempDir(), filepath.Join(t.TempDir(), "manifests")
	s := service("web", 10, 30080)
	manifest(t, second, "web.yaml", append([]any{s}, slices(s, backends(b1)...)...)...)
	must(t, os.Symlink(first, dir))
	a := startAgent(t, node, "--manifests", dir)
	both := []string{a0.Name, c.Nodes[1].Pods[0].Name}
	answered(t, client, "tcp", webAddrs()[0], both...)
	must(t, os.Symlink(second, dir+".new"))
	must(t, os.Rename(dir+".new", dir))
	answered(t, client, "tcp", webAddrs()[0], b1.Name)
	must(t, os.Remove(dir))
	a.logged(t, "manifests cannot be read")
	answered(t, client, "tcp", webAddrs()[0], b1.Name) // the last good state
	must(t, os.Symlink(first, dir))
	answered(t, client, "tcp", webAddrs()[0], both...)
}

// One file with very much in it.
func TestHugeManifest(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client, a0 := c.Nodes[0], c.Nodes[0].Pods[1], c.Nodes[0].Pods[0]
	var objects []any
	const count = 2000
	for i := range count {
		s := service(fmt.Sprintf("huge-%d", i), 0, 0)
		s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.%d.%d", 1+i/250, 1+i%250), fmt.Sprintf("fd96::1:%x", i)}
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
		objects = append(append(objects, s), slices(s, backends(a0)...)...)
	}
	startAgent(t, node, "--manifests", dir)
	var l loads
	l.start(t, client.Host, "tcp", webAddrs()[0], false)
	manifest(t, dir, "huge.yaml", objects...)
	for _, i := range []int{0, count / 2, count - 1} {
		answered(t, client, "tcp", fmt.Sprintf("10.96.%d.%d:80", 1+i/250, 1+i%250), a0.Name)
		answered(t, client, "udp", fmt.Sprintf("[fd96::1:%x]:80", i), a0.Name)
	}
	if n := len(kernelTables(t, node).Services); n != 2*(count+1) {
		t.Errorf("%d service ports in the kernel, want %d", n, 2*(count+1))
	}
	must(t, os.Remove(filepath.Join(dir, "huge.yaml")))
	unreachable(t, node, "10.96.1.1:80")
	l.stop(t)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
