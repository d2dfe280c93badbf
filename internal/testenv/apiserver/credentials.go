package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/csv"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// Files in the server's directory.
const (
	tokensFile      = "tokens.csv"
	keyFile         = "service-account.pem"
	certificateFile = "apiserver.crt" // kube-apiserver makes it, and its own authority, at its first start
)

// User is somebody whom the API server knows. RBAC decides what they may do: ServiceAccounts are
// system:serviceaccount:<namespace>:<name> in the groups system:serviceaccounts and system:authenticated.
type User struct {
	Name   string
	Groups []string
	token  string
}

// Admin may do everything.
var Admin = User{Name: "admin", Groups: []string{"system:masters"}}

// writeCredentials makes a token for each user, and the key that signs ServiceAccounts' tokens.
func (s *Server) writeCredentials(users []User) error {
	tokens, err := os.OpenFile(s.path(tokensFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer tokens.Close()
	w := csv.NewWriter(tokens)
	for _, u := range users {
		u.token = rand.Text()
		s.users[u.Name] = u
		if err := w.Write([]string{u.token, u.Name, u.Name, strings.Join(u.Groups, ",")}); err != nil {
			return err
		}
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	return os.WriteFile(s.path(keyFile), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// WriteKubeconfig writes a kubeconfig file for user that finds the API server where a node does after
// [Server.Expose].
func (s *Server) WriteKubeconfig(path, user string) error {
	config, err := s.Config(user)
	if err != nil {
		return err
	}
	const name = "test"
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters[name] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	kubeconfig.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: config.BearerToken}
	kubeconfig.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	kubeconfig.CurrentContext = name
	return clientcmd.WriteToFile(*kubeconfig, path)
}

// Expose lets a node reach the API server at its own 127.0.0.1:6443, as with a load balancer on each
// node. Closing what it returns is an outage of the API server for that node; calling it again ends it.
func (s *Server) Expose(node *testenv.Node) (*testenv.Forward, error) {
	return node.Forward(address, func(ctx context.Context) (net.Conn, error) { return s.DialContext(ctx, "", "") })
}

// MustNew starts a server that is closed with the test.
func MustNew(t testenv.TB, o Options) *Server {
	t.Helper()
	s, err := New(t.Context(), o, t.Logf)
	if err != nil {
		t.Fatalf("API server: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close API server: %v", err)
		}
	})
	return s
}
