package apiserver_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

func TestMain(m *testing.M) {
	testenv.Main()
	os.Exit(m.Run())
}

// One server serves all: what a test of an agent needs of it, in the order in which it would.
func TestServer(t *testing.T) {
	ctx := t.Context()
	const proxy = "system:kube-proxy" // bound to system:node-proxier by the server itself
	begin := time.Now()
	server := apiserver.MustNew(t, apiserver.Options{Users: []apiserver.User{{Name: proxy}}})
	t.Logf("etcd and kube-apiserver: %v", time.Since(begin))
	cluster := testenv.MustNew(t, testenv.Options{Nodes: 2, PodsPerNode: 1})
	node, pods := cluster.Nodes[0], []*testenv.Pod{cluster.Nodes[0].Pods[0], cluster.Nodes[1].Pods[0]}
	admin, err := server.Client(apiserver.Admin.Name)
	if err != nil {
		t.Fatal(err)
	}

	object, err := apiserver.CreateNode(ctx, admin, node)
	if err != nil {
		t.Fatal(err)
	}
	want := []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "node-a"},
		{Type: corev1.NodeInternalIP, Address: "172.30.0.11"},
		{Type: corev1.NodeInternalIP, Address: "fd30::11"},
	}
	if diff := cmp.Diff(want, object.Status.Addresses); diff != "" {
		t.Errorf("node addresses (-want +got):\n%s", diff)
	}

	service := apiserver.NewService("web", corev1.ServiceTypeNodePort, corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP})
	service, err = apiserver.CreateService(ctx, admin, service, apiserver.PodBackend(pods[0]), apiserver.NodeBackend(cluster.Nodes[1]))
	if err != nil {
		t.Fatal(err)
	}
	if len(service.Spec.ClusterIPs) != 2 || service.Spec.Ports[0].NodePort == 0 {
		t.Errorf("service has cluster IPs %v and node port %d", service.Spec.ClusterIPs, service.Spec.Ports[0].NodePort)
	}

	// As an agent on the node: a kubeconfig file, the node's loopback, and the rights of a proxy.
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := server.WriteKubeconfig(path, proxy); err != nil {
		t.Fatal(err)
	}
	access, err := server.Expose(node)
	if err != nil {
		t.Fatal(err)
	}
	agent := mustAgent(t, node, path)
	checkSlices(t, agent, service, "node-a 10.244.1.11", "node-b 172.30.0.12", "node-a fd44:1::11", "node-b fd30::12")
	if _, err := agent.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a proxy lists secrets: %v, want forbidden", err)
	}

	if err := apiserver.SetBackends(ctx, admin, service, apiserver.PodBackend(pods[1])); err != nil {
		t.Fatal(err)
	}
	checkSlices(t, agent, service, "node-b 10.244.2.11", "node-b fd44:2::11")

	// An outage for this node, and its end.
	access.Close()
	if answers(ctx, agent) {
		t.Error("the API server answers although its node is cut off")
	}
	if _, err := server.Expose(node); err != nil {
		t.Fatal(err)
	}
	checkSlices(t, agent, service, "node-b 10.244.2.11", "node-b fd44:2::11")

	// An outage for everybody; what was stored stays.
	for name, stop := range map[string]func() error{
		"stop": func() error { return server.Stop(ctx) },
		"kill": func() error { server.Kill(); return nil },
	} {
		if err := stop(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if answers(ctx, agent) {
			t.Errorf("the API server answers after %s", name)
		}
		begin = time.Now()
		if err := server.Start(ctx); err != nil {
			t.Fatalf("start after %s: %v", name, err)
		}
		t.Logf("kube-apiserver again: %v", time.Since(begin))
		checkSlices(t, agent, service, "node-b 10.244.2.11", "node-b fd44:2::11")
	}
}

// A flag that kube-apiserver does not know is told with its own words, and at once.
func TestServerFails(t *testing.T) {
	server, err := apiserver.New(t.Context(), apiserver.Options{Flags: []string{"--no-such-flag"}}, t.Logf)
	if err == nil {
		server.Close()
		t.Fatal("kube-apiserver starts with an unknown flag")
	}
	if got, want := err.Error(), "unknown flag: --no-such-flag"; !strings.Contains(got, want) {
		t.Errorf("error is %q, want %q in it", got, want)
	}
}

// answers makes one attempt; client-go by itself makes ten.
func answers(ctx context.Context, client *kubernetes.Clientset) bool {
	return client.RESTClient().Get().AbsPath("/version").MaxRetries(0).Do(ctx).Error() == nil
}

func mustAgent(t *testing.T, node *testenv.Node, kubeconfig string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return node.DialContext(ctx, network, addr)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// checkSlices compares the endpoints of a Service, IPv4 first, written as "node address".
func checkSlices(t *testing.T, client kubernetes.Interface, service *corev1.Service, want ...string) {
	t.Helper()
	slices, err := client.DiscoveryV1().EndpointSlices(service.Namespace).List(t.Context(), metav1.ListOptions{
		LabelSelector: "kubernetes.io/service-name=" + service.Name})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			got = append(got, fmt.Sprintf("%s %s", *e.NodeName, e.Addresses[0]))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("endpoints of %s (-want +got):\n%s", service.Name, diff)
	}
}
