package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

const (
	finalizer            = "external-provisioner.volume.kubernetes.io/finalizer"
	provisionedBy        = "pv.kubernetes.io/provisioned-by"
	storageProvisioner   = "volume.kubernetes.io/storage-provisioner"
	selectedNode         = "volume.kubernetes.io/selected-node"
	deletionSecretPrefix = "volume.kubernetes.io/provisioner-deletion-secret-"
)

// provisioner is what Kubernetes' csi-provisioner does for this driver with Linode's arguments
// (--default-fstype=ext4 --volume-name-prefix=pvc --volume-name-uuid-length=16): it makes a volume for each claim that
// the controller manager marks as this driver's, and removes released volumes under Delete.
type provisioner struct {
	client  kubernetes.Interface
	control *controller
	region  string

	factory     informers.SharedInformerFactory
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	classes     storagelisters.StorageClassLister
	attachments storagelisters.VolumeAttachmentLister
	claimQueue  workqueue.TypedRateLimitingInterface[string]
	volumeQueue workqueue.TypedRateLimitingInterface[string]
	events      record.EventRecorder
	identity    string
}

func newProvisioner(client kubernetes.Interface, control *controller, region string) *provisioner {
	// The sidecar's --retry-interval-start and --retry-interval-max.
	limiter := func() workqueue.TypedRateLimiter[string] {
		return workqueue.NewTypedItemExponentialFailureRateLimiter[string](time.Second, 5*time.Minute)
	}
	factory := informers.NewSharedInformerFactory(client, 15*time.Minute)
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typed.EventSinkImpl{Interface: client.CoreV1().Events("")})
	p := &provisioner{
		client:      client,
		control:     control,
		region:      region,
		factory:     factory,
		claims:      factory.Core().V1().PersistentVolumeClaims().Lister(),
		volumes:     factory.Core().V1().PersistentVolumes().Lister(),
		classes:     factory.Storage().V1().StorageClasses().Lister(),
		attachments: factory.Storage().V1().VolumeAttachments().Lister(),
		claimQueue:  workqueue.NewTypedRateLimitingQueue(limiter()),
		volumeQueue: workqueue.NewTypedRateLimitingQueue(limiter()),
		events:      broadcaster.NewRecorder(scheme.Scheme, core.EventSource{Component: driverName + "_provisioner"}),
		identity:    fmt.Sprintf("%d-%s", time.Now().UnixMilli(), driverName),
	}
	feed(factory.Core().V1().PersistentVolumeClaims().Informer(), p.claimQueue)
	feed(factory.Core().V1().PersistentVolumes().Informer(), p.volumeQueue)
	factory.Storage().V1().StorageClasses().Informer()
	factory.Storage().V1().VolumeAttachments().Informer()
	return p
}

func feed(informer cache.SharedIndexInformer, queue workqueue.TypedRateLimitingInterface[string]) {
	add := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			queue.Add(key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, now any) { add(now) },
	})
	if err != nil {
		log.Fatal(err)
	}
}

func (p *provisioner) run(ctx context.Context) {
	p.factory.Start(ctx.Done())
	p.factory.WaitForCacheSync(ctx.Done())
	for range 4 {
		go work(ctx, p.claimQueue, p.syncClaim)
		go work(ctx, p.volumeQueue, p.syncVolume)
	}
	<-ctx.Done()
	p.claimQueue.ShutDown()
	p.volumeQueue.ShutDown()
}

func work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], sync func(context.Context, string) error) {
	for {
		key, stopped := queue.Get()
		if stopped {
			return
		}
		if err := sync(ctx, key); err != nil {
			log.Printf("provisioner: %s: %v", key, err)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func (p *provisioner) syncClaim(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	claim, err := p.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	// The controller manager sets the annotation once no volume that exists fits.
	if claim.Spec.VolumeName != "" || claim.Annotations[storageProvisioner] != driverName || claim.Spec.StorageClassName == nil {
		return nil
	}
	class, err := p.classes.Get(*claim.Spec.StorageClassName)
	if err != nil {
		return err
	}
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storage.VolumeBindingWaitForFirstConsumer
	if waits && claim.Annotations[selectedNode] == "" {
		return nil
	}
	volumeName := volumeNameOf(claim)
	if _, err := p.volumes.Get(volumeName); err == nil {
		return nil
	}
	p.events.Eventf(claim, core.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", key)
	if err := p.provision(ctx, claim, class, volumeName); err != nil {
		p.events.Event(claim, core.EventTypeWarning, "ProvisioningFailed", err.Error())
		return err
	}
	p.events.Eventf(claim, core.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", volumeName)
	return nil
}

// volumeNameOf is the name of the PV and the volume's label at once.
func volumeNameOf(claim *core.PersistentVolumeClaim) string {
	return "pvc-" + strings.ReplaceAll(string(claim.UID), "-", "")[:16]
}

func (p *provisioner) provision(ctx context.Context, claim *core.PersistentVolumeClaim, class *storage.StorageClass, name string) error {
	if claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil {
		return errors.New("a claim with a data source: clones are made at the provider here")
	}
	capabilities := []*csi.VolumeCapability{}
	for _, mode := range claim.Spec.AccessModes {
		wanted := csi.VolumeCapability_AccessMode_UNKNOWN
		switch mode {
		case core.ReadWriteOnce:
			wanted = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		case core.ReadWriteOncePod:
			wanted = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		}
		capability := &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: wanted},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		}
		if claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == core.PersistentVolumeBlock {
			capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}
		capabilities = append(capabilities, capability)
	}
	made, err := p.control.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: claim.Spec.Resources.Requests.Storage().Value()},
		VolumeCapabilities: capabilities,
		AccessibilityRequirements: &csi.TopologyRequirement{
			Preferred: []*csi.Topology{{Segments: map[string]string{topologyKey: p.region}}},
		},
	})
	if err != nil {
		return err
	}
	volume := persistentVolume(claim, class, name, made.GetVolume(), p.identity)
	if _, err := p.client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

func persistentVolume(claim *core.PersistentVolumeClaim, class *storage.StorageClass, name string, made *csi.Volume, identity string) *core.PersistentVolume {
	attributes := map[string]string{"storage.kubernetes.io/csiProvisionerIdentity": identity}
	for key, value := range made.GetVolumeContext() {
		attributes[key] = value
	}
	terms := []core.NodeSelectorTerm{}
	for _, topology := range made.GetAccessibleTopology() {
		expressions := []core.NodeSelectorRequirement{}
		for key, value := range topology.GetSegments() {
			expressions = append(expressions, core.NodeSelectorRequirement{Key: key, Operator: core.NodeSelectorOpIn, Values: []string{value}})
		}
		terms = append(terms, core.NodeSelectorTerm{MatchExpressions: expressions})
	}
	policy := core.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{
			Name: name,
			Annotations: map[string]string{
				provisionedBy:                      driverName,
				deletionSecretPrefix + "name":      "",
				deletionSecretPrefix + "namespace": "",
			},
			// Under Retain too: the first look at the volume that was made takes it away again.
			Finalizers: []string{finalizer},
		},
		Spec: core.PersistentVolumeSpec{
			AccessModes:  claim.Spec.AccessModes,
			MountOptions: class.MountOptions,
			Capacity:     core.ResourceList{core.ResourceStorage: *resource.NewQuantity(made.GetCapacityBytes(), resource.BinarySI)},
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{CSI: &core.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: made.GetVolumeId(), FSType: "ext4", VolumeAttributes: attributes,
			}},
			NodeAffinity:                  &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: terms}},
			PersistentVolumeReclaimPolicy: policy,
			StorageClassName:              class.Name,
			VolumeMode:                    claim.Spec.VolumeMode,
		},
	}
}

func (p *provisioner) syncVolume(ctx context.Context, name string) error {
	volume, err := p.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if !isOurs(volume) {
		return nil
	}
	if wanted := finalizersOf(volume); !slices.Equal(wanted, volume.Finalizers) {
		if volume, err = p.setFinalizers(ctx, volume, wanted); err != nil {
			return err
		}
	}
	if !isToDelete(volume) {
		return nil
	}
	if err := p.remove(ctx, volume); err != nil {
		p.events.Event(volume, core.EventTypeWarning, "VolumeFailedDelete", err.Error())
		return err
	}
	return nil
}

// isOurs: of a volume that a person made, the driver decides; of any other, who provisioned it.
func isOurs(volume *core.PersistentVolume) bool {
	if by, ok := volume.Annotations[provisionedBy]; ok {
		return by == driverName
	}
	return volume.Spec.CSI != nil && volume.Spec.CSI.Driver == driverName
}

// finalizersOf: a bound volume under Delete is held until the provider's is gone (KEP-2644); under Retain none is.
func finalizersOf(volume *core.PersistentVolume) []string {
	has := slices.Contains(volume.Finalizers, finalizer)
	switch {
	case volume.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimRetain && has:
		return slices.DeleteFunc(slices.Clone(volume.Finalizers), func(one string) bool { return one == finalizer })
	case volume.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimDelete && !has &&
		volume.DeletionTimestamp == nil && volume.Status.Phase == core.VolumeBound:
		return append(slices.Clone(volume.Finalizers), finalizer)
	}
	return volume.Finalizers
}

func isToDelete(volume *core.PersistentVolume) bool {
	removed := volume.DeletionTimestamp != nil && !slices.Contains(volume.Finalizers, finalizer)
	return !removed && volume.Status.Phase == core.VolumeReleased &&
		volume.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimDelete
}

func (p *provisioner) remove(ctx context.Context, volume *core.PersistentVolume) error {
	if volume.Spec.CSI == nil {
		return fmt.Errorf("%s is no CSI volume", volume.Name)
	}
	attachments, err := p.attachments.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, one := range attachments {
		if of := one.Spec.Source.PersistentVolumeName; of != nil && *of == volume.Name {
			return fmt.Errorf("persistentvolume %s is still attached to node %s", volume.Name, one.Spec.NodeName)
		}
	}
	if _, err := p.control.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: volume.Spec.CSI.VolumeHandle}); err != nil {
		return err
	}
	log.Printf("DeleteVolume %s: done", volume.Spec.CSI.VolumeHandle)
	err = p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{Preconditions: meta.NewUIDPreconditions(string(volume.UID))})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	now, err := p.client.CoreV1().PersistentVolumes().Get(ctx, volume.Name, meta.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && now.UID != volume.UID) {
		return nil
	} else if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(now.Finalizers), func(one string) bool { return one == finalizer })
	if _, err := p.setFinalizers(ctx, now, left); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

func (p *provisioner) setFinalizers(ctx context.Context, volume *core.PersistentVolume, finalizers []string) (*core.PersistentVolume, error) {
	changed := volume.DeepCopy()
	changed.Finalizers = finalizers
	return p.client.CoreV1().PersistentVolumes().Update(ctx, changed, meta.UpdateOptions{})
}
