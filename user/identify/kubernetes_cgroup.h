/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pod a cgroup belongs to, by its path alone: Kubernetes tells it nowhere, but the kubelet
 * names the folder of a pod by its UID. Paths begin below the kubelet's cgroupRoot.
 *
 *	systemd		/kubepods.slice[/kubepods-QOS.slice]/kubepods-[QOS-]pod<UID with _>.slice
 *	cgroupfs	/kubepods[/QOS]/pod<UID>
 *	kind		/kubelet.slice/kubelet-kubepods.slice/..., /kubelet/kubepods/...
 *	mixed		/system.slice/containerd.service/kubepods-QOS-pod<UID>.slice:cri-containerd:<ID>
 *	node in a container, seen from its host: /docker/<ID>/..., /system.slice/docker-<ID>.scope/...
 *
 * A static pod is named by the hash of its file (32 hex digits) instead of a UID. What lies in a
 * pod's folder (containers, crio-conmon) belongs to it and is not looked at.
 */
#ifndef TALLY_IDENTIFY_KUBERNETES_CGROUP_H
#define TALLY_IDENTIFY_KUBERNETES_CGROUP_H

#include "identify/kubernetes_pod.h"

enum tally_kubernetes_folder {
	TALLY_KUBERNETES_OTHER, /* no pods here */
	TALLY_KUBERNETES_ABOVE, /* pods may be below */
	TALLY_KUBERNETES_POD,	/* a pod's, or a container's of it */
};

/* ret_uid is set for a POD; as in tally_kubernetes_pod.folder. */
enum tally_kubernetes_folder tally_kubernetes_cgroup_of(const char *path,
							char ret_uid[TALLY_KUBERNETES_UID]);

#endif
