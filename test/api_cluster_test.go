package test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// Whom agents are to the API server. The second has to be given each right by the test.
const (
	proxyUser   = "system:serviceaccount:kube-system:svcproxy"
	anotherUser = "system:serviceaccount:kube-system:another"
)

// proxyRules are what deploy/daemonset.yaml gives the agent; the API server refuses the rest.
var proxyRules = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"list", "watch"}},
	{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
	{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"servicecidrs"}, Verbs: []string{"list", "watch"}},
	{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
}

// apiServer is the package's API server, started by the first test that asks for it. Its Nodes are those of
// every cluster with two nodes, and its Services are everybody's: a test takes away what it makes.
var apiServer = sync.OnceValues(func() (*apiserver.Server, error) {
	ctx := context.Background()
	var users []apiserver.User
	for _, name := range []string{proxyUser, anotherUser} {
		users = append(users, apiserver.User{Name: name, Groups: []string{"system:serviceaccounts", "system:authenticated"}})
	}
	server, err := apiserver.New(ctx, apiserver.Options{Users: users}, func(string, ...any) {})
	if err != nil {
		return nil, err
	}
	afterAll(func() { _ = server.Close() })
	admin, err := server.Client(apiserver.Admin.Name)
	if err != nil {
		return nil, err
	}
	return server, grant(ctx, admin, "svcproxy", proxyUser, proxyRules...)
})

// grant lets a user do what the rules say, besides what others grants say.
func grant(ctx context.Context, admin kubernetes.Interface, name, user string, rules ...rbacv1.PolicyRule) error {
	meta := metav1.ObjectMeta{Name: name}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}
	if _, err := admin.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	return err
}

// apiCluster is a cluster of two nodes with two serving pods each, whose nodes reach the API server.
type apiCluster struct {
	*testenv.Cluster
	server *apiserver.Server
	admin  kubernetes.Interface
	access []*testenv.Forward // of each node
	agents []*agent
}

// newAPICluster makes a cluster without agents.
func newAPICluster(t *testing.T) *apiCluster {
	t.Helper()
	begin := time.Now()
	server, err := apiServer()
	t.Logf("API server: %v", time.Since(begin))
	if err != nil {
		t.Fatalf("API server: %v", err)
	}
	c := &apiCluster{Cluster: testenv.MustNew(t, testenv.Options{Nodes: 2, PodsPerNode: 2, Clients: 1}), server: server}
	servePods(t, c.Cluster)
	if c.admin, err = server.Client(apiserver.Admin.Name); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if _, err := apiserver.CreateNode(t.Context(), c.admin, n); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("create node: %v", err)
		}
		access, err := server.Expose(n)
		if err != nil {
			t.Fatalf("expose API server: %v", err)
		}
		c.access = append(c.access, access)
	}
	return c
}

// startAgents starts an agent on each node.
func (c *apiCluster) startAgents(t *testing.T, args ...string) {
	t.Helper()
	for _, n := range c.Nodes {
		c.agents = append(c.agents, startAgent(t, n, append(args, "--kubeconfig", c.kubeconfig(t, proxyUser))...))
	}
}

func (c *apiCluster) kubeconfig(t *testing.T, user string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := c.server.WriteKubeconfig(path, user); err != nil {
		t.Fatalf("write kubeconfig: %v", err)
	}
	return path
}

func (c *apiCluster) pod(node, number int) *testenv.Pod { return c.Nodes[node].Pods[number] }

// backends are ready ones.
func backends(pods ...*testenv.Pod) []apiserver.Backend {
	var list []apiserver.Backend
	for _, p := range pods {
		list = append(list, apiserver.PodBackend(p))
	}
	return list
}

// create makes a Service and its slices, which go with the test.
func (c *apiCluster) create(t *testing.T, s *corev1.Service, backends ...apiserver.Backend) *corev1.Service {
	t.Helper()
	created, err := apiserver.CreateService(t.Context(), c.admin, s, backends...)
	if err != nil {
		t.Fatalf("create service: %v", err)
	}
	t.Cleanup(func() { c.remove(t, created) })
	return created
}

// remove deletes a Service and its slices, as far as they are there.
func (c *apiCluster) remove(t *testing.T, s *corev1.Service) {
	t.Helper()
	ctx := context.Background() // of a test that may be over
	err := c.admin.CoreV1().Services(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("delete service: %v", err)
	}
	err = c.admin.DiscoveryV1().EndpointSlices(s.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + s.Name})
	if err != nil {
		t.Errorf("delete slices: %v", err)
	}
}

// update changes a Service as it is in the API server now.
func (c *apiCluster) update(t *testing.T, s *corev1.Service, edit func(*corev1.Service)) *corev1.Service {
	t.Helper()
	services := c.admin.CoreV1().Services(s.Namespace)
	now, err := services.Get(t.Context(), s.Name, metav1.GetOptions{})
	if err == nil {
		edit(now)
		now, err = services.Update(t.Context(), now, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatalf("update service %s: %v", s.Name, err)
	}
	return now
}

// setBackends replaces who is behind a Service.
func (c *apiCluster) setBackends(t *testing.T, s *corev1.Service, backends ...apiserver.Backend) {
	t.Helper()
	if err := apiserver.SetBackends(t.Context(), c.admin, s, backends...); err != nil {
		t.Fatalf("set backends of %s: %v", s.Name, err)
	}
}
