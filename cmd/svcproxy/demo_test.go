package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/pkg/config"
)

func TestDemo(t *testing.T) {
	cmd := exec.Command(binary, "demo")
	code, stdout, stderr := execute(t, cmd)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q\n%s", code, stderr, stdout)
	}
	for line := range strings.Lines(stdout) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if strings.Contains(stdout, "\x1b") {
		t.Error("colours, but no terminal")
	}
	rest := stdout
	next := func(words ...string) string { // the next line that has all of words
		t.Helper()
		for rest != "" {
			var line string
			line, rest, _ = strings.Cut(rest, "\n")
			if fields := strings.Fields(line); subset(words, fields) {
				return line
			}
		}
		t.Fatalf("no line with %q, or not where it belongs:\n%s", words, stdout)
		return ""
	}
	for _, s := range story {
		next(strings.Fields(s.title)...)
		for _, r := range s.requests {
			if len(r.want) == 0 {
				next("ok", r.from, r.network, r.frontend, "refused")
			}
			for i, w := range r.want {
				if i > 0 && w.client == r.want[i-1].client {
					continue // on one line with the other
				}
				next("ok", r.from, r.network, r.frontend, w.backend, w.client)
			}
		}
	}
	for _, from := range []string{"pod-a2", "client-1"} {
		var requests, failures int
		line := strings.Join(strings.Fields(next("ok", from, "requests"))[4:], " ")
		if _, err := fmt.Sscanf(line, "%d requests %d", &requests, &failures); err != nil || requests < 3*loadStep || failures != 0 {
			t.Errorf("load from %s: %q, %v", from, line, err)
		}
	}
	if line := next("ok", "node-a", "s"); !strings.HasSuffix(line, " 0") {
		t.Errorf("the agent that came back wrote: %s", line)
	}
	next("svcproxy", "services")
	next("demo/web:tcp", "NodePort", "172.30.0.11:30080/tcp", "2")
	next("svcproxy", "flows")
	next("demo/web:tcp", "172.30.0.11:30080", "10.244.2.11:8080")
	next("demo/web:udp", "172.30.0.11:30080")
	next("Everything", "was", "answered")
	checkNothingLeft(t, cmd.Process.Pid)
}

// subset reports whether each word begins a field, as "pod-a1" or "pod-a1," does.
func subset(words, fields []string) bool {
	for _, w := range words {
		found := false
		for _, f := range fields {
			found = found || f == w || f == w+","
		}
		if !found {
			return false
		}
	}
	return true
}

// checkNothingLeft looks for what a demo makes: cgroups (thus processes), pins (thus programs), files.
func checkNothingLeft(t *testing.T, pid int) {
	t.Helper()
	cgroups, err := config.FindCgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{cgroups, "/sys/fs/bpf", os.TempDir()} {
		left, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("svcproxy-testenv-%d-*", pid)))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
}

// An expectation that is not met must show, and must make the exit code 1.
func TestDemoSaysWhatIsWrong(t *testing.T) {
	t.Setenv(asMain, "1")
	whole := story
	t.Cleanup(func() { story = whole })
	story = []section{{title: "a lie", requests: []request{
		{"pod-a2", "tcp", "10.96.0.10:80", both("pod-b2")},
		{"pod-a2", "tcp", "10.96.0.10:80", both("pod-a2")},
		{"pod-a2", "tcp", "10.96.0.10:81", both("pod-a2")},
	}}}
	var text bytes.Buffer
	err := runDemo(t.Context(), newPage(&text), false)
	if err == nil || err.Error() != "2 lines are not as they should be; they say WRONG" {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{
		"\n  WRONG  pod-a2     tcp 10.96.0.10:80 ", "\n         ^ pod-a1 should have answered, and have seen pod-b2\n",
		"\n  ok     pod-a2     tcp 10.96.0.10:80 ",
		"\n  WRONG  pod-a2     tcp 10.96.0.10:81        nobody",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("lacks %q:\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "Everything was answered") {
		t.Errorf("says that all is well:\n%s", text.String())
	}
}

// watched is a running demo and what it has printed.
type watched struct {
	*exec.Cmd
	mu             sync.Mutex
	stdout, stderr bytes.Buffer
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stdout.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stdout.String()
}

// startDemo starts a demo and returns when it has printed a text.
func startDemo(t *testing.T, until string, args ...string) *watched {
	t.Helper()
	w := &watched{Cmd: exec.Command(binary, append([]string{"demo"}, args...)...)}
	w.Stdout, w.Stderr = w, &w.stderr
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.ProcessState == nil {
			_ = w.Process.Kill()
			_ = w.Wait()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := testenv.Eventually(ctx, func(context.Context) error {
		if !strings.Contains(w.String(), until) {
			return fmt.Errorf("not printed: %q", until)
		}
		return nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, w)
	}
	return w
}

// end sends a signal and waits for the exit code.
func (w *watched) end(t *testing.T, signal os.Signal, code int) {
	t.Helper()
	if err := w.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	_ = w.Wait() // an *exec.ExitError, as the state says
	if got := w.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, not %d; stderr %q", got, code, w.stderr.String())
	}
	checkNothingLeft(t, w.Process.Pid)
}

func TestDemoInterrupted(t *testing.T) {
	for _, test := range []struct {
		name   string
		at     string
		signal os.Signal
	}{
		{"Ctrl-C while the cluster is made", "network namespaces ...", syscall.SIGINT},
		{"Ctrl-C while agents start", "an agent on each node ...", syscall.SIGINT},
		{"Ctrl-C in the story", story[1].title, syscall.SIGINT},
		{"terminal closed in the story", story[3].title, syscall.SIGHUP},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := startDemo(t, test.at)
			w.end(t, test.signal, 1)
			if w.stderr.String() != "svcproxy: interrupted\n" {
				t.Errorf("stderr %q", w.stderr.String())
			}
			if text := w.String(); strings.Contains(text, "WRONG") || !strings.HasSuffix(text, "\n") {
				t.Errorf("an interruption is shown as something wrong, or on an open line:\n%s", text)
			}
		})
	}
}

// With --keep, what the demo tells the user to try must work.
func TestDemoKeep(t *testing.T) {
	w := startDemo(t, "-o json", "--keep")
	var dir, root string
	var commands []string
	for line := range strings.Lines(w.String()) {
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "cd":
			dir = words[1]
		case strings.HasPrefix(line, "  ./"):
			command, _, _ := strings.Cut(strings.TrimSpace(line), "   ")
			commands = append(commands, command)
		case strings.HasPrefix(line, "  nsenter "):
			commands = append(commands, strings.TrimSpace(line))
		case len(words) == 4 && words[2] == "--bpf-root" && root == "":
			root = words[3]
		}
	}
	if dir == "" || root == "" || len(commands) != 2+7 {
		t.Fatalf("no folder, no bpf root or not all commands (%q):\n%s", commands, w)
	}
	for _, command := range commands {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		code, stdout, stderr := execute(t, cmd)
		want := "pod-"
		if strings.HasPrefix(command, "nsenter") {
			want = "inet "
		}
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("%s: exit code %d\n%s%s", command, code, stdout, stderr)
		}
	}
	checkFormats(t, root)
	w.end(t, syscall.SIGINT, 0)
}

// A machine that cannot do it gets one line that says what is missing and how to mend it.
func TestDemoOnLesserMachines(t *testing.T) {
	nobody := exec.Command(binary, "demo")
	nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	nobody.Dir = "/"
	cgroups, err := config.FindCgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		cmd  *exec.Cmd
		want string
	}{
		{"not root", nobody, "takes root: sudo svcproxy demo"},
		{"root of a user namespace", exec.Command("unshare", "-Ur", binary, "demo"), "user namespace"},
		{"no cgroup2", exec.Command("unshare", "-m", "sh", "-c", `umount -l "$0" && exec "$1" demo`, cgroups, binary), "mount -t cgroup2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := execute(t, test.cmd)
			if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, stderr is not one line with %q:\n%s%s", code, test.want, stderr, stdout)
			}
		})
	}
}

func TestMissingInKernel(t *testing.T) {
	for _, test := range []struct {
		release string
		btf     bool
		want    string // "": nothing is missing
	}{
		{"5.14.0-570", true, ""},
		{"6.18.44", true, ""},
		{"odd", true, ""},
		{"5.10.0-28-amd64", true, "5.14 or newer"},
		{"4.19.0-26-amd64", false, "5.14 or newer"},
		{"6.1.0", false, "CONFIG_DEBUG_INFO_BTF"},
	} {
		err := missingInKernel(test.release, test.btf)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("Linux %s, BTF %v: %v, not %q", test.release, test.btf, err, test.want)
		}
	}
}

func TestOutcomeProblem(t *testing.T) {
	refused := fmt.Errorf("connect: %w", unix.ECONNREFUSED)
	got := func(counts map[exchange]int) outcome { return outcome{answers: counts} }
	for _, test := range []struct {
		name    string
		outcome outcome
		want    []exchange
		problem string
	}{
		{"as promised", got(map[exchange]int{{"a", "c"}: 3, {"b", "n"}: 2}), []exchange{{"a", "c"}, {"b", "n"}}, ""},
		{"one is silent", got(map[exchange]int{{"a", "c"}: 3}), []exchange{{"a", "c"}, {"b", "n"}}, "b should have answered"},
		{"another client seen", got(map[exchange]int{{"a", "n"}: 3}), []exchange{{"a", "c"}}, "a should have answered, and have seen c"},
		{"another client seen at times", got(map[exchange]int{{"a", "c"}: 3, {"a", "n"}: 1}), []exchange{{"a", "c"}}, "a should not have answered with n"},
		{"an error", outcome{err: errors.New("lost")}, []exchange{{"a", "c"}}, "lost"},
		{"an error after answers", outcome{answers: map[exchange]int{{"a", "c"}: 3}, err: errors.New("lost")}, []exchange{{"a", "c"}}, "lost"},
		{"peer", outcome{answers: map[exchange]int{{"a", "c"}: 3}, peer: "10.0.0.1:1"}, []exchange{{"a", "c"}}, "believes to talk to 10.0.0.1:1"},
		{"refused", outcome{err: refused, took: time.Millisecond}, nil, ""},
		{"refused late", outcome{err: refused, took: time.Second}, nil, "at once"},
		{"refused after answers", outcome{answers: map[exchange]int{{"a", "c"}: 3}, err: refused}, nil, "should have been refused"},
		{"not refused", got(map[exchange]int{{"a", "c"}: 3}), nil, "should have been refused"},
		{"silence instead of a refusal", outcome{err: os.ErrDeadlineExceeded}, nil, "should have been refused: i/o timeout"},
		{"refused instead of an answer", outcome{err: refused}, []exchange{{"a", "c"}}, "connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			problem := test.outcome.problem(test.want)
			if (problem == "") != (test.problem == "") || !strings.Contains(problem, test.problem) {
				t.Errorf("problem %q, not %q", problem, test.problem)
			}
		})
	}
}
