package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// Where the two programs listen, inside their namespace.
const (
	address     = "127.0.0.1:6443"
	etcdAddress = "127.0.0.1:2379"
	etcdPeer    = "127.0.0.1:2380"
)

// The address ranges of Services.
const (
	ServiceCIDR4 = "10.96.0.0/16"
	ServiceCIDR6 = "fd96::/108"
)

// readyTimeout is many times what it takes on a busy machine.
const readyTimeout = time.Minute

// Options are what a test may want different.
type Options struct {
	Users []User // besides [Admin]
	// Flags are further arguments of kube-apiserver; of one given twice the later counts.
	Flags []string
}

// Server is a kube-apiserver with its etcd. Both die with this process.
type Server struct {
	namespace *testenv.Namespace
	dir       string
	users     map[string]User
	flags     []string
	binary    string

	etcd      *testenv.Process
	apiserver *testenv.Process // nil while stopped
}

// New builds what is not built yet, starts etcd and kube-apiserver, and waits until it is ready.
// The caller must close the server.
func New(ctx context.Context, o Options, logf func(format string, args ...any)) (_ *Server, err error) {
	s := &Server{users: map[string]User{}, flags: o.Flags}
	etcd, err := Binary(ctx, "etcd", logf)
	if err != nil {
		return nil, err
	}
	if s.binary, err = Binary(ctx, "kube-apiserver", logf); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.namespace, err = testenv.NewNamespace(); err != nil {
		return nil, err
	}
	if s.dir, err = testenv.TempDir(); err != nil {
		return nil, err
	}
	if err := s.writeCredentials(append(o.Users, Admin)); err != nil {
		return nil, err
	}
	if err := s.startEtcd(etcd); err != nil {
		return nil, err
	}
	return s, s.Start(ctx)
}

// Close ends both programs and forgets their data.
func (s *Server) Close() error {
	s.Kill()
	if s.etcd != nil {
		s.etcd.Kill()
	}
	var errs []error
	if s.namespace != nil {
		errs = append(errs, s.namespace.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

func (s *Server) startEtcd(binary string) error {
	cmd := exec.Command(binary,
		"--data-dir="+filepath.Join(s.dir, "etcd"),
		"--unsafe-no-fsync",
		"--listen-client-urls=http://"+etcdAddress, "--advertise-client-urls=http://"+etcdAddress,
		"--listen-peer-urls=http://"+etcdPeer, "--initial-advertise-peer-urls=http://"+etcdPeer,
		"--initial-cluster=default=http://"+etcdPeer,
		"--log-level=warn",
	)
	var err error
	s.etcd, err = s.run(cmd)
	return err
}

// Start starts kube-apiserver, again after [Server.Stop] or [Server.Kill], and waits until it is ready. What
// it stored before is still there.
func (s *Server) Start(ctx context.Context) error {
	if s.apiserver != nil {
		return errors.New("kube-apiserver runs already")
	}
	cmd := exec.Command(s.binary, append([]string{
		"--etcd-servers=http://" + etcdAddress,
		"--bind-address=127.0.0.1", "--secure-port=6443", "--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none", // it refuses to announce a loopback address
		"--cert-dir=" + s.dir,
		"--authorization-mode=RBAC",
		"--token-auth-file=" + s.path(tokensFile),
		"--service-account-key-file=" + s.path(keyFile),
		"--service-account-signing-key-file=" + s.path(keyFile),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-cluster-ip-range=" + ServiceCIDR4 + "," + ServiceCIDR6,
		"--disable-admission-plugins=ServiceAccount", // nobody makes the accounts that it would want
	}, s.flags...)...)
	var err error
	if s.apiserver, err = s.run(cmd); err != nil {
		return err
	}
	return s.awaitReady(ctx)
}

// Stop asks kube-apiserver to end and waits until it has, or ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if s.apiserver == nil {
		return nil
	}
	if err := s.apiserver.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop kube-apiserver: %w", err)
	}
	select {
	case <-s.apiserver.Done():
		s.apiserver = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop kube-apiserver: %w", ctx.Err())
	}
}

// Kill ends kube-apiserver at once.
func (s *Server) Kill() {
	if s.apiserver != nil {
		s.apiserver.Kill()
		s.apiserver = nil
	}
}

// Run starts another program beside the API server (kube-controller-manager): on its loopback.
// The caller must kill it before it closes the server.
func (s *Server) Run(cmd *exec.Cmd) (*testenv.Process, error) { return s.namespace.Start(cmd) }

// DialContext dials the API server, whatever address is asked for.
func (s *Server) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return s.namespace.DialContext(ctx, "tcp", address)
}

// run starts one of the two programs, its output in a file named after it.
func (s *Server) run(cmd *exec.Cmd) (*testenv.Process, error) {
	out, err := os.OpenFile(s.logOf(cmd.Path), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, out, out
	return s.namespace.Start(cmd)
}

func (s *Server) path(file string) string { return filepath.Join(s.dir, file) }

func (s *Server) logOf(binary string) string { return s.path(filepath.Base(binary) + ".log") }

// awaitReady waits until /readyz says so. If it never does, the error holds the end of the log.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := testenv.Eventually(ctx, func(ctx context.Context) error {
		select {
		case <-s.apiserver.Done():
			return nil // told below
		default:
		}
		config, err := s.Config(Admin.Name)
		if err != nil {
			return err // the certificate is not there yet
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		var status int
		err = client.RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&status).Error()
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("/readyz answers %d", status)
		}
		return err
	})
	select {
	case <-s.apiserver.Done():
		err = errors.Join(errors.New("ended"), s.apiserver.Wait(ctx))
	default:
	}
	if err != nil {
		out, _ := os.ReadFile(s.logOf(s.binary)) // better half an error than none
		return fmt.Errorf("start kube-apiserver: %w; its log ends\n%s", err, lastLines(string(out), 15))
	}
	return nil
}

// Client returns a client of the API server for user.
func (s *Server) Client(user string) (*kubernetes.Clientset, error) {
	config, err := s.Config(user)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// Config returns how this process reaches the API server as user.
func (s *Server) Config(user string) (*rest.Config, error) {
	u, ok := s.users[user]
	if !ok {
		return nil, fmt.Errorf("the API server knows no user %s", user)
	}
	certificate, err := os.ReadFile(s.path(certificateFile))
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            "https://" + address,
		BearerToken:     u.token,
		TLSClientConfig: rest.TLSClientConfig{CAData: certificate},
		Dial:            s.DialContext,
		QPS:             -1, // no limit
	}, nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
