package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newDemoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work on this machine: a small cluster, real agents, real requests, in seconds",
		Long: `Makes a cluster of network namespaces (two nodes, four pods, one client outside), runs an agent on each
node, sends real requests through Services, and shows who answered and whom they saw:

  1  a ClusterIP from a pod and from a process of the node: TCP, UDP, IPv4, IPv6
  2  a NodePort from outside, to a pod of that node and to one of another
  3  a NodePort at localhost
  4  a backend that goes away: the others answer
  5  the last one goes too: clients are refused at once
  6  an agent that is killed while requests are made, and comes back

Nothing leaves this machine, its own network is left alone, and all of it is removed at the end, by
Ctrl-C too. It needs root, a mounted cgroup2, and Linux 5.14 or newer with BTF. No API server: the agents
read a folder of YAML files ("svcproxy run --manifests"). The exit code is 1 if anything was answered
otherwise than it should have been; such lines say WRONG.

  sudo svcproxy demo            the story, then the end
  sudo svcproxy demo --keep     the cluster stays until Ctrl-C, to look around in`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The terminal or the pipe that we write to may go away: that is an end like Ctrl-C.
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGHUP, unix.SIGPIPE)
			defer stop()
			return runDemo(ctx, newPage(cmd.OutOrStdout()), keep)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the cluster until Ctrl-C, and say how to look around")
	return cmd
}

// runDemo makes the cluster, tells the story and removes the cluster, whatever happens.
func runDemo(ctx context.Context, out *page, keep bool) (err error) {
	if err := missing(); err != nil {
		return err
	}
	began := time.Now()
	d := &demo{out: out}
	defer func() {
		out.end()
		err = oneLine(errors.Join(err, d.close()))
	}()
	if err := d.build(ctx); err != nil {
		return interruption(ctx, err)
	}
	if err := d.tell(ctx); err != nil {
		return interruption(ctx, err)
	}
	if err := d.look(); err != nil {
		return err
	}
	if out.wrong == 0 {
		out.line("\nEverything was answered as it should be, in %.1f s.", time.Since(began).Seconds())
	}
	if keep {
		if err := d.invite(); err != nil {
			return err
		}
		<-ctx.Done()
	}
	if out.wrong > 0 {
		return fmt.Errorf("%d lines are not as they should be; they say WRONG", out.wrong)
	}
	return nil
}

// interruption returns err, or that the user has ended the demo: what fails then fails for that reason.
func interruption(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// missing says what this process or kernel lacks. The rest is found where it is needed, with as clear words.
func missing() error {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces and loads eBPF programs, which takes root: sudo svcproxy demo")
	}
	// Root of a user namespace may do neither: what it maps is less than all users.
	if users, err := os.ReadFile("/proc/self/uid_map"); err == nil && !wholeMachine(string(users)) {
		return errors.New("this root is that of a user namespace (a rootless container?), and the demo needs the machine's: sudo svcproxy demo")
	}
	var system unix.Utsname
	if err := unix.Uname(&system); err != nil {
		return fmt.Errorf("ask for the kernel's version: %w", err)
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return missingInKernel(unix.ByteSliceToString(system.Release[:]), err == nil)
}

// wholeMachine reports whether a uid_map (user_namespaces(7)) is that of the initial user namespace.
func wholeMachine(uidMap string) bool {
	return strings.Join(strings.Fields(uidMap), " ") == "0 0 4294967295"
}

func missingInKernel(release string, btf bool) error {
	var major, minor int
	// A version that cannot be read is no reason to refuse: loading will tell.
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major < 5 || major == 5 && minor < 14) {
		return fmt.Errorf("this kernel is Linux %s: svcproxy needs 5.14 or newer", release)
	}
	if !btf {
		return errors.New("this kernel has no BTF (/sys/kernel/btf/vmlinux): svcproxy needs one built with CONFIG_DEBUG_INFO_BTF=y, as the distributions' are")
	}
	return nil
}

// oneLine joins the lines of an error of several.
func oneLine(err error) error {
	if err == nil || !strings.Contains(err.Error(), "\n") {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}
