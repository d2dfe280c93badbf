// Package apiserver runs a real etcd and kube-apiserver for tests: built from hack/tools with the Go
// toolchain, cached, on the loopback of a network namespace of their own.
package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A tool is a program that one of the modules below hack/tools can build.
type tool struct {
	module  string // folder below hack/tools
	require string // the module whose version is the program's
	pkg     string
	ldflags string // %s is the version
}

var tools = map[string]tool{
	"etcd":                    {module: "etcd", require: "go.etcd.io/etcd/server/v3", pkg: "go.etcd.io/etcd/server/v3"},
	"kube-apiserver":          kubeTool("kube-apiserver"),
	"kube-controller-manager": kubeTool("kube-controller-manager"),
	"kube-proxy":              kubeTool("kube-proxy"),
}

func kubeTool(name string) tool {
	const version = "k8s.io/component-base/version."
	return tool{
		module:  "kube",
		require: "k8s.io/kubernetes",
		pkg:     "k8s.io/kubernetes/cmd/" + name,
		ldflags: " -X " + version + "gitVersion=%s",
	}
}

// Binary returns the path of a program (etcd, kube-apiserver, kube-controller-manager, kube-proxy), which it
// builds if it is not in the cache: $SVCPROXY_CACHE, or svcproxy/bin in the user's cache directory.
// A first build takes minutes; logf hears how it goes.
func Binary(ctx context.Context, name string, logf func(format string, args ...any)) (string, error) {
	t, ok := tools[name]
	if !ok {
		return "", fmt.Errorf("build %s: unknown program", name)
	}
	dir, err := moduleDir(t.module)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	version, err := t.version(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	path := filepath.Join(cache, name+"-"+version)
	unlock, err := lock(path + ".lock") // another package's test may be building it
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := t.build(ctx, dir, version, path, logf); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return path, nil
}

func (t tool) build(ctx context.Context, dir, version, path string, logf func(string, ...any)) error {
	begin := time.Now()
	logf("building %s (minutes the first time)", filepath.Base(path))
	defer everyHalfMinute(func() { logf("still building %s after %v", filepath.Base(path), time.Since(begin).Round(time.Second)) })()

	ldflags := "-s -w"
	if t.ldflags != "" {
		ldflags += fmt.Sprintf(t.ldflags, version)
	}
	unfinished := path + ".unfinished"
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", ldflags, "-o", unfinished, t.pkg)
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", t.pkg, err, out)
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	logf("built %s in %v", filepath.Base(path), time.Since(begin).Round(time.Second))
	return nil
}

// version returns the version that the tools module requires.
func (t tool) version(ctx context.Context, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "edit", "-json")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go mod edit -json in %s: %w", dir, err)
	}
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		return "", fmt.Errorf("parse go.mod in %s: %w", dir, err)
	}
	for _, r := range mod.Require {
		if r.Path == t.require {
			return r.Version, nil
		}
	}
	return "", fmt.Errorf("go.mod in %s requires no %s", dir, t.require)
}

// moduleDir finds hack/tools/<name> of the repository that the working directory is in.
func moduleDir(name string) (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module github.com/svcproxy/svcproxy\n")) {
			return filepath.Join(dir, "hack", "tools", name), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no svcproxy repository above %s", start)
		}
	}
}

func cacheDir() (string, error) {
	dir := os.Getenv("SVCPROXY_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "svcproxy", "bin")
	}
	dir, err := filepath.Abs(dir) // go build runs elsewhere
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lock waits for an exclusive lock on the file at path.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// everyHalfMinute calls f until the returned function is called.
func everyHalfMinute(f func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		ticker := time.NewTicker(30 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				f()
			}
		}
	}()
	return func() { close(done) }
}
